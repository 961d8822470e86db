"""Make messages, tools and documents of callers plain for a template."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from .files import TokenizerError
from .messages import check_messages
from .schema import tool_schema

Chat = list[dict[str, Any]]


def conversations(value: object) -> tuple[list[Chat], bool]:
    """Returns the chats of an argument: one, or a list of them, and whether it is a
    list.

    Keys whose value is None are left out, as transformers does: other interfaces send
    them, and templates print them.
    """
    several = (
        isinstance(value, list | tuple)
        and len(value) > 0
        and (isinstance(value[0], list | tuple) or hasattr(value[0], "messages"))
    )
    # `several` has looked that it is a list, which no checker follows.
    chats = list(value) if several else [value]  # type: ignore[call-overload]
    return [_chat(getattr(chat, "messages", chat)) for chat in chats], several


def _chat(value: object) -> Chat:
    plain_messages = plain(value)
    found = []
    for message in check_messages(plain_messages):
        found.append({k: v for k, v in message.items() if v is not None})
    return found


def schemas(tools: object) -> list[Any] | None:
    """Returns tools as JSON schemas; functions are described by their own words."""
    if tools is None:
        return None
    if not isinstance(tools, list | tuple):
        raise TokenizerError(
            f"tools is a list of JSON schemas or functions, not a "
            f"{type(tools).__name__}."
        )
    found = []
    for tool in tools:
        if isinstance(tool, Mapping):
            found.append(plain(tool))
        elif inspect.isfunction(tool) or inspect.ismethod(tool):
            found.append(tool_schema(tool))
        else:
            raise TokenizerError(
                f"a tool is a JSON schema or a function with type hints and a "
                f"docstring, not a {type(tool).__name__}."
            )
    return found


def documents(value: object) -> list[Any] | None:
    """Returns documents to answer from: mappings, usually of a title and a text."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(
        isinstance(document, Mapping) for document in value
    ):
        raise TokenizerError(
            "documents is a list of mappings, such as "
            '[{"title": "...", "text": "..."}].'
        )
    return [plain(document) for document in value]


def plain(value: Any) -> Any:
    """Returns a value of JSON's types only: a template cannot call what it cannot
    reach.

    Images, arrays and whatever else become their type's name, as in transformers;
    templates ask whether such a thing is there, not what it holds.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value))
        return {name: plain(getattr(value, name)) for name in names}
    if callable(getattr(value, "model_dump", None)):
        return plain(value.model_dump())
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return plain(value.item())
    return f"<{type(value).__name__}>"
