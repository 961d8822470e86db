"""Match regular expressions from a config in linear time.

Published lists of modules are expressions such as ``.*mlp.(gate|up)_proj``. A config is
not to be trusted, and Python's ``re`` may take exponential time over what it says; so
the part of the language that such lists use is parsed here, and matched by the set of
places that a match may have come to.
"""

import re
from dataclasses import dataclass

from glmc.frontends.wording import show
from glmc.ir.errors import UnsupportedQuantizationError

_LONGEST = 1000
_TOKEN = re.compile(r"\\[.\-_/]|\\d|\\w|\[[\w.\-]+\]|[\w.:/\-$^]|[()|*+?]")
_DEEPEST = 16

Node = tuple[str, object]
"""``("one", set expression)``, ``("end", None)``, ``("repeat", (node, mark))`` or
``("any", list of sequences)``."""


@dataclass(frozen=True)
class Pattern:
    """A parsed expression."""

    text: str
    root: Node

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Parse an expression.

        Raises:
            GlmcError: on what is not in the language, or too long.
        """
        tokens = _TOKEN.findall(text[: _LONGEST + 1])
        if len(text) > _LONGEST or "".join(tokens) != text:
            raise _unread(text)
        root, rest = _alternatives(tokens, text, 0)
        if rest:
            raise _unread(text)
        return cls(text, root)

    def begins(self, name: str) -> bool:
        """Tell whether ``name`` begins with a match, as ``re.match`` does."""
        return bool(_reach(self.root, name, {0}))


def _unread(text: str) -> UnsupportedQuantizationError:
    return UnsupportedQuantizationError(
        f"the pattern {show(text)} in quantization_config is not one that glmc reads:"
        " names, '.', '\\d', '\\w', '[…]', '(…|…)', '*', '+', '?', '^' and '$'"
    )


def _alternatives(tokens: list[str], text: str, depth: int) -> tuple[Node, list[str]]:
    if depth > _DEEPEST:
        raise _unread(text)
    sequences: list[list[Node]] = [[]]
    while tokens and tokens[0] != ")":
        token, tokens = tokens[0], tokens[1:]
        if token == "|":
            sequences.append([])
        elif token == "(":
            inner, tokens = _alternatives(tokens, text, depth + 1)
            if not tokens:
                raise _unread(text)
            sequences[-1].append(inner)
            tokens = tokens[1:]
        elif token in ("*", "+", "?"):
            if not sequences[-1] or sequences[-1][-1][0] != "one":
                raise _unread(text)
            sequences[-1][-1] = ("repeat", (sequences[-1][-1], token))
        elif token in ("^", "$"):
            sequences[-1].append(("edge", token))
        else:
            sequences[-1].append(("one", re.compile(token)))
    return ("any", sequences), tokens


def _reach(node: Node, name: str, places: set[int]) -> set[int]:
    """Return the places where a match may end that begins at one of ``places``."""
    kind, value = node
    if kind == "edge":
        return places & {0 if value == "^" else len(name)}
    if kind == "one":
        assert isinstance(value, re.Pattern)
        return {at + 1 for at in places if value.fullmatch(name, at, at + 1)}
    assert isinstance(value, list | tuple)
    if kind == "any":
        ends: set[int] = set()
        for sequence in value:
            reached = places
            for part in sequence:
                reached = _reach(part, name, reached)
            ends |= reached
        return ends
    part, mark = value
    found = set() if mark == "+" else set(places)
    reached = _reach(part, name, places)
    while reached - found:
        found |= reached
        reached = set() if mark == "?" else _reach(part, name, reached)
    return found
