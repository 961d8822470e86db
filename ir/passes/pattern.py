"""Patterns in the dump's own notation, compiled for matching and rebuilding.

In a pattern ``%x`` and ``@w`` bind values and parameters, ``$eps`` binds an attribute,
``bias=@b?`` an operand that may be absent. An attribute that a pattern leaves out must
have its default, an optional operand that it leaves out must be absent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from glmc.ir import ops as _ops  # noqa: F401  (registers the ops)
from glmc.ir.op import Op, registry
from glmc.ir.text.lexer import Cursor
from glmc.ir.text.reader import bind_arguments
from glmc.ir.text.syntax import Call, Ref, Statement, call, ref, statement

Binding = dict[str, Any]
"""Pattern names with their sigil (``%x``, ``@w``, ``$eps``) to what they stand for."""


@dataclass(frozen=True)
class PatternOp:
    """One line: the op's class, its result names and its arguments by field."""

    cls: type[Op]
    results: tuple[str, ...]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class ParamLine:
    """``@qkv = cat(@wq, @wk, @wv)`` in a replacement."""

    name: str
    call: Call


def _line(cursor: Cursor, raw: Statement) -> PatternOp:
    cls = registry().get(raw.call.name)
    if cls is None:
        raise cursor.error(f"there is no op {raw.call.name}", raw.call.at)
    fields = bind_arguments(cursor, cls, raw.call)
    return PatternOp(cls, tuple(name for name, _ in raw.results), fields)


def parse_replacement(text: str) -> tuple[list[ParamLine], list[PatternOp]]:
    """Parse the right-hand side of a rule into parameters to build and ops to make."""
    cursor, params, lines = Cursor(text), list[ParamLine](), list[PatternOp]()
    while not cursor.sees("end"):
        if cursor.now.text.startswith("@"):
            name = ref(cursor, "@")
            cursor.take("mark", "=")
            params.append(ParamLine(name, call(cursor)))
        else:
            lines.append(_line(cursor, statement(cursor)))
    return params, lines


class Pattern:
    """The left-hand side of a rewrite rule."""

    def __init__(self, text: str) -> None:
        cursor = Cursor(text)
        self.ops: list[PatternOp] = []
        while not cursor.sees("end"):
            self.ops.append(_line(cursor, statement(cursor)))

    @property
    def anchor(self) -> PatternOp:
        """The last op: each of its kind in a graph is a candidate."""
        return self.ops[-1]

    @cached_property
    def producers(self) -> Mapping[str, tuple[PatternOp, int]]:
        """Pattern value to the line that makes it and which result it is."""
        return {
            name: (line, at)
            for line in self.ops
            for at, name in enumerate(line.results)
        }


def unify(line: PatternOp, op: Op, bound: Binding) -> str | None:
    """Bind a pattern line's names to an op; return the reason why it cannot be, or
    None."""
    if type(op) is not line.cls:
        made = ", ".join(f"%{name}" for name in op.outs)
        return f"{made} is made by {op.mnemonic}, not {line.cls.mnemonic}"
    if len(op.outs) != len(line.results):
        return f"{op.mnemonic} gives {len(op.outs)} values, not {len(line.results)}"
    for name, actual in zip(line.results, op.outs, strict=True):
        bound["%" + name] = actual
    for field in (*op.operand_fields(), *op.attribute_fields()):
        reason = _unify_field(line, op, field, bound)
        if reason:
            return reason
    return None


def _unify_field(line: PatternOp, op: Op, field: str, bound: Binding) -> str | None:
    actual, wanted = getattr(op, field), line.fields.get(field)
    if field not in line.fields:
        default = type(op).model_fields[field].default
        if actual == default:
            return None
        return f"{op.mnemonic} has {field}={actual}, which the fusion does not take"
    if not isinstance(wanted, Ref):
        if wanted == actual:
            return None
        return f"{op.mnemonic} has {field}={actual}, the fusion needs {wanted}"
    if actual is None and wanted.sigil != "$" and not wanted.optional:
        return f"{op.mnemonic} has no {field}"
    key = wanted.sigil + wanted.name
    if bound.setdefault(key, actual) != actual:
        return f"{op.mnemonic} has {field}={actual}, elsewhere it is {bound[key]}"
    return None
