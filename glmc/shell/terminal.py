"""Text for a terminal: colour and width where there is one, plain where it is piped."""

import os
import re
import shutil
import sys
from typing import TextIO

_RED, _GREEN, _CYAN, _BLUE, _BOLD, _DIM = 31, 32, 36, 34, 1, 2
_TOKENS = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<param>@[A-Za-z_]\w*)
      | (?P<value>%[A-Za-z_]\w*)
      | (?P<op>(?<==\ )[a-z_]\w*(?=\())
      | (?P<head>^(?:program|stem|block|head|stages|ledger)\b)
    """,
    re.VERBOSE,
)
_COLOURS = {"string": _DIM, "param": _BLUE, "value": _CYAN, "op": _BOLD, "head": _BOLD}
_STATUS = {"applied": _GREEN, "refused": _RED, "absent": _DIM}
_INDENT = 8


def show(text: str, out: TextIO | None = None) -> None:
    """Print text; coloured and folded where ``out`` (stdout) is a terminal.

    NO_COLOR (no-color.org) and TERM=dumb keep it uncoloured.
    """
    out = out or sys.stdout
    if out.isatty():
        width = shutil.get_terminal_size().columns
        lines = [part for line in text.splitlines() for part in fold(line, width)]
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        text = "\n".join(lines if plain else map(paint, lines))
    print(text.rstrip("\n"), file=out)


def fold(line: str, width: int) -> list[str]:
    """Fold a line to ``width``, broken at blanks and continued indented."""
    indent = len(line) - len(line.lstrip(" ")) + _INDENT
    lines: list[str] = []
    while len(line) > width > 2 * indent:
        at = line.rfind(" ", indent + 1, width + 1)
        if at <= indent:
            break
        lines.append(line[:at])
        line = " " * indent + line[at:].lstrip(" ")
    return [*lines, line]


def paint(line: str) -> str:
    """Colour a line by what it holds."""
    if line[:2] in ("+ ", "- "):
        return _in(line, _GREEN if line[0] == "+" else _RED)
    word = line.strip().partition(" ")[0]
    if line.startswith("  ") and word in _STATUS:
        return line.replace(word, _in(word, _STATUS[word]), 1)
    return _TOKENS.sub(lambda m: _in(m[0], _COLOURS[str(m.lastgroup)]), line)


def _in(text: str, colour: int) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"
