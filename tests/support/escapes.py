"""Texts that attack the reader, and pieces of Python that it must read."""

from __future__ import annotations

import re
from collections.abc import Mapping

from support import ROOT

FOLDER = ROOT / "tests" / "frontends" / "code" / "texts"
UNREADABLE, REFUSED, BUDGET, FAILED = "GLMC090", "GLMC091", "GLMC092", "GLMC093"
NOTHING = "nothing"
_ENDS = {
    "UNREADABLE": UNREADABLE,
    "REFUSED": REFUSED,
    "BUDGET": BUDGET,
    "FAILED": FAILED,
    "NOTHING": NOTHING,
}

Attack = tuple[str, str]
"""Its end, and the text."""


def sections(name: str) -> dict[str, str]:
    """The parts of a file of texts, by what stands behind their ``===``."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    parts = re.split(r"^=== (.+)$", text, flags=re.MULTILINE)[1:]
    # A line that begins with a number sign and a space is a heading between parts.
    bodies = [re.split(r"^# ", body, flags=re.MULTILINE)[0] for body in parts[1::2]]
    return dict(zip(parts[::2], (body.strip("\n") for body in bodies), strict=True))


def _attacks() -> dict[str, Attack]:
    found = {}
    for title, text in sections("attacks.txt").items():
        name, end = title.split(": ")
        found[name] = (_ENDS[end], text)
    return found


# Texts whose size is what they are about.
_MADE: Mapping[str, Attack] = {
    "literal": (BUDGET, "x = " + "9" * 4000),
    "null": (UNREADABLE, "x = 1\0"),
    "encoding": (UNREADABLE, "x = '\udc80'"),
    "large": (UNREADABLE, "x = 1\n" * 900_000),
    "deep_brackets": (UNREADABLE, "x = " + "(" * 5000 + ")" * 5000),
    "deep_sum": (UNREADABLE, "x = " + "+".join(["1"] * 5000)),
    "deep_minus": (UNREADABLE, "x = " + "-" * 5000 + "1"),
    "deep_attributes": (UNREADABLE, "x = a" + ".b" * 5000),
    "deep_blocks": (
        NOTHING,
        "".join(" " * i + "if 1:\n" for i in range(99)) + " " * 99 + "x = 1",
    ),
}

ATTACKS: Mapping[str, Attack] = {**_attacks(), **_MADE}
