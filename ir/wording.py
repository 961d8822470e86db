"""Suggest the known name that was meant by a misspelt one."""

from collections.abc import Iterable


def meant(text: str, known: Iterable[str]) -> str:
    """Return ``; did you mean linear?``, or nothing where no known name is near."""
    from difflib import get_close_matches  # only where a name is wrong

    near = get_close_matches(text, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
