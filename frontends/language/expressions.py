"""Parse the expressions of specs: bounded, without side effects.

The grammar is a subset of Python's and Python's own parser reads it, but nothing is
ever compiled or executed: :mod:`glmc.frontends.language.evaluation` walks the tree.
``a ?? b`` is the first of the two that is not null. It binds like Kotlin's ``?:``:
looser than arithmetic, tighter than comparisons, so ``c.n ?? 4 * E`` and
``c.n ?? 6 == 0`` read as one expects.
"""

import ast
import re
import warnings
from dataclasses import dataclass, field
from functools import cached_property

from glmc.ir.errors import ExpressionError, GlmcError

_MAX_TEXT = 2000
_MAX_NODES = 500

# `??` becomes `|`, which binds as wanted in Python; the blank keeps the columns.
_STRING_OR_MARK = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|\?\?|\|")

_ALLOWED = (
    ast.expr_context,
    ast.boolop,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.BoolOp,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.IfExp,
    ast.Call,
    ast.Attribute,
    ast.Subscript,
    ast.Name,
    ast.Constant,
    ast.List,
    ast.Dict,
)
_REFUSED_OPERATORS = (
    ast.MatMult,
    ast.BitAnd,
    ast.BitXor,
    ast.LShift,
    ast.RShift,
    ast.Invert,
)


@dataclass(frozen=True)
class Expression:
    """A parsed expression and where its spec wrote it."""

    text: str
    where: str
    tree: ast.expr = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"={self.text}"

    @cached_property
    def config_keys(self) -> frozenset[str]:
        """Top-level config keys it reads: ``a`` for ``c.a`` and ``c.a.b``."""
        return frozenset(
            node.attr
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "c"
        )

    @property
    def config_path(self) -> str | None:
        """``a.b`` where the whole expression is ``c.a.b``."""
        path, node = "", self.tree
        while isinstance(node, ast.Attribute):
            path, node = f".{node.attr}{path}", node.value
        is_config = isinstance(node, ast.Name) and node.id == "c"
        return path[1:] if is_config and path else None

    @cached_property
    def names(self) -> frozenset[str]:
        """Variables and functions it uses, ``c`` among them."""
        nodes = ast.walk(self.tree)
        return frozenset(node.id for node in nodes if isinstance(node, ast.Name))


def parse_expression(text: str, where: str) -> Expression:
    """Parse the text after the ``=``.

    Raises:
        GlmcError: on anything outside the grammar; shows the expression.
    """
    text = text.strip()
    if len(text) > _MAX_TEXT:
        raise ExpressionError(
            f"{where}: an expression of more than {_MAX_TEXT} characters"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(_STRING_OR_MARK.sub(_python_mark, text), mode="eval").body
    except SyntaxError as error:
        at = f"at column {error.offset}" if error.offset else "where it ends"
        raise _refuse(text, where, f"{error.msg} {at}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise _refuse(text, where, str(error) or "nested too deeply") from None
    _check(tree, text, where)
    return Expression(text, where, tree)


def _python_mark(match: re.Match[str]) -> str:
    mark = match[0]
    if mark == "|":
        return "@"  # refused below, as Python's own `|` is not in the grammar
    return "| " if mark == "??" else mark


def _check(tree: ast.expr, text: str, where: str) -> None:
    nodes = list(ast.walk(tree))
    if len(nodes) > _MAX_NODES:
        raise _refuse(text, where, "it is too long")
    for node in nodes:
        reason = _objection(node)
        if reason:
            raise _refuse(text, where, reason)


def _objection(node: ast.AST) -> str | None:
    if isinstance(node, _REFUSED_OPERATORS):
        return "expressions have no bit operators and no matrix product"
    match node:
        case ast.Call(func=ast.Name(), keywords=[]) | ast.keyword():
            return None
        case ast.Call():
            return "only the built-in functions can be called, without keywords"
        case ast.Constant(value=value) if isinstance(value, complex | bytes):
            return f"{value!r} is not a value that expressions have"
        case ast.Constant(value=value) if value is ...:
            return "'...' is not a value that expressions have"
        case ast.Dict(keys=keys) if not all(map(_is_text, keys)):
            return "the keys of a dict must be strings"
    if not isinstance(node, _ALLOWED):
        return f"{type(node).__name__} is not part of the expression language"
    return None


def _is_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _refuse(text: str, where: str, reason: str) -> GlmcError:
    return ExpressionError(f"{where}: cannot read the expression `={text}`: {reason}")
