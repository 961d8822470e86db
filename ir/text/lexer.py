"""Tokens of the text form."""

import json
import re
from typing import NamedTuple

from glmc.ir.errors import IRSyntaxError

_TOKEN = re.compile(
    r"""(?P<space>(?:\s|\#[^\n]*)+)
      | (?P<ref>[%@$][A-Za-z_]\w*)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>[()\[\]{},:=.?])
    """,
    re.VERBOSE,
)


_DIGITS = 64
"""More than any number needs: fp32 has 9, a size 15."""


class Token(NamedTuple):
    """``kind`` is ref, string, number, name, mark or end; ``at`` an offset."""

    kind: str
    text: str
    at: int


def tokenize(text: str) -> list[Token]:
    """Split text into tokens without blanks and ``#`` comments, and an ``end`` token
    last."""
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise IRSyntaxError(text, at, f"unexpected character {text[at]!r}")
        if found.lastgroup == "number" and len(found[0]) > _DIGITS:
            raise IRSyntaxError(text, at, f"a number of {len(found[0])} digits")
        if found.lastgroup != "space":
            tokens.append(Token(str(found.lastgroup), found[0], at))
        at = found.end()
    return [*tokens, Token("end", "", len(text))]


class Cursor:
    """A position in a token list."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokenize(text)
        self.index = 0

    @property
    def now(self) -> Token:
        """The token under the cursor."""
        return self.tokens[self.index]

    def error(self, what: str, at: int | None = None) -> IRSyntaxError:
        """Make an error at the cursor, or at an offset."""
        return IRSyntaxError(self.text, self.now.at if at is None else at, what)

    def sees(self, kind: str, text: str | None = None) -> bool:
        """Tell whether the token under the cursor is of this kind (and text)."""
        return self.now.kind == kind and text in (None, self.now.text)

    def accept(self, kind: str, text: str | None = None) -> str | None:
        """Take the token if it is of this kind (and text), else return None."""
        if not self.sees(kind, text):
            return None
        self.index += 1
        return self.tokens[self.index - 1].text

    def take(self, kind: str, text: str | None = None) -> str:
        """Take the token, which must be of this kind (and text)."""
        got = self.accept(kind, text)
        if got is None:
            found = self.now.text or "the end of the text"
            raise self.error(f"expected {text or _KIND[kind]}, found {found!r}")
        return got

    def whole(self, limit: int = 1 << 62) -> int:
        """Take a whole number of at most ``limit``."""
        at, text = self.now.at, self.take("number")
        if not text.lstrip("-").isdigit() or abs(int(text)) > limit:
            raise self.error(f"expected a whole number, found {text}", at)
        return int(text)

    def string(self) -> str:
        """Take a quoted string."""
        at = self.now.at
        try:
            return str(json.loads(self.take("string")))
        except json.JSONDecodeError as error:
            raise self.error(f"bad string: {error.msg}", at) from None


_KIND = {
    "ref": "a %value or @param",
    "string": "a quoted string",
    "number": "a number",
    "name": "a name",
    "end": "the end of the text",
    "mark": "punctuation",
}
