"""Messages of a chat, and the parts of them that a model reads."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .files import TokenizerError

Message = Mapping[str, Any]


class Special(str):
    """A special token; any other string of a chat is text."""

    __slots__ = ()


Parts = list[str]
Chat = Callable[[Sequence[Message], bool], Parts]
"""Makes the parts of messages, and with True what an answer begins with."""


def check_messages(messages: object) -> list[Message]:
    """Refuses what is not a list of {"role": ..., "content": ...}."""
    if not isinstance(messages, list | tuple) or not messages:
        raise TokenizerError(
            "a chat is a list of messages such as "
            '[{"role": "user", "content": "你好"}], and not empty.'
        )
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(role, str) or not re.fullmatch(r"[\w.-]{1,64}", role):
            raise TokenizerError(
                f"message {number} of the chat is not a mapping with a role of "
                'letters, such as {"role": "user", "content": "你好"}.'
            )
    return list(messages)
