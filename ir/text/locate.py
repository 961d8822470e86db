"""Find the line of a dump that breaks a rule of the verifier."""

from collections.abc import Sequence
from itertools import pairwise

from glmc.ir.errors import DumpRuleError
from glmc.ir.text.lexer import Token, tokenize
from glmc.ir.verify import VerifyError

_OPENING, _CLOSING = "([{", ")]}"


def located(text: str, error: VerifyError) -> DumpRuleError:
    """Turn the verifier's error into one with the line and column of what is wrong in
    ``text``."""
    tokens = _section(tokenize(text), error.graph)
    at = next((i for i, t in enumerate(tokens) if _defines(tokens, i, error.about)), 0)
    if "twice" in str(error):
        at = max(i for i in range(len(tokens)) if _defines(tokens, i, error.about))
    if error.operand:
        reads = (
            i for i in range(at + 1, len(tokens)) if tokens[i].text == error.operand
        )
        at = next(reads, at)
    return DumpRuleError(text, tokens[at].at, str(error))


def _defines(tokens: Sequence[Token], at: int, about: str) -> bool:
    if tokens[at].text != about:
        return False
    return about == "return" or tokens[min(at + 1, len(tokens) - 1)].text == ":"


def _section(tokens: Sequence[Token], graph: str) -> Sequence[Token]:
    """Return the tokens of a graph, from its ``stem``, ``block`` or ``head`` on."""
    heads = [*_heads(tokens), len(tokens)]
    for start, stop in pairwise(heads):
        kind, name = tokens[start].text, tokens[start + 1].text
        if graph in (kind, name[1:] if kind == "block" else kind):
            return tokens[start:stop]
    return tokens


def _heads(tokens: Sequence[Token]) -> list[int]:
    depth, found = 0, []
    for at, token in enumerate(tokens):
        if token.kind == "mark":
            depth += (token.text in _OPENING) - (token.text in _CLOSING)
        begins = token.kind == "name" and token.text in ("stem", "block", "head")
        if begins and depth == 0 and tokens[at - 1].text != "=":
            found.append(at)
    return found
