"""Mark special tokens that foreign text spells, so that they stay text."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

MARK = "\ue000"


def marked(value: Any, pattern: re.Pattern[str], mark: str) -> Any:
    """Puts `mark` around each special token that the strings of `value` spell.

    The token itself stays whole, so a template can still look for it.
    """
    if isinstance(value, str):
        return pattern.sub(lambda m: mark + m.group() + mark, value)
    if isinstance(value, Mapping):
        return {k: marked(v, pattern, mark) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [marked(v, pattern, mark) for v in value]
    return value


def unused_mark(values: Iterable[object]) -> str:
    """Returns a run of a private character that is longer than any in `values`."""
    longest = 0
    for text in _strings(list(values)):
        longest = max(longest, *map(len, re.findall(f"{MARK}+", text)), 0)
    return MARK * (longest + 1)


def _strings(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
