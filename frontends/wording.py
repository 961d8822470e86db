"""Show values and names in messages."""

import json
import math
import re
from collections.abc import Iterable, Mapping

_PLAIN = re.compile(r"[\w./*-]+", re.ASCII)
_WIDTH = 80


def show(value: object) -> str:
    """Spell a value as JSON would, cut to a readable length, always on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, list | Mapping) and len(value) > _WIDTH:
        kind = "list" if isinstance(value, list) else "object"
        return f"a {kind} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def named(text: str) -> str:
    """Return a name as it stands when it is an ordinary one, else quoted and
    escaped."""
    return text if _PLAIN.fullmatch(text) and len(text) <= 200 else show(text)


def listed(names: Iterable[str], most: int = 5) -> str:
    """List the first few names, and count the rest."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(map(named, every[:most])) + more


def nearest(text: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the known name that ``text`` was most likely meant to be."""
    from difflib import get_close_matches  # only where a name is wrong

    near = get_close_matches(text, list(known), n=1, cutoff=likeness)
    return near[0] if near else None


def numbers_from(first: int, digits: int = 3) -> list[str]:
    """List globs that match ``first`` and every larger number of up to ``digits``
    digits."""
    globs, text = [str(first)], str(first)
    for at in range(len(text) - 1, -1, -1):
        if text[at] != "9":
            more = f"[{int(text[at]) + 1}-9]"
            globs.append(text[:at] + more + "[0-9]" * (len(text) - at - 1))
    for length in range(len(text) + 1, digits + 1):
        globs.append("[1-9]" + "[0-9]" * (length - 1))
    return globs
