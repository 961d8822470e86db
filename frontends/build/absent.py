"""Find what an absent key of a config stands for, by the expressions of a spec.

The scopes are those of one config: its model's, and each layer's.
"""

import ast
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from glmc.frontends.language.evaluation import Scope, Value, evaluate, same
from glmc.frontends.language.expressions import Expression
from glmc.ir.errors import GlmcError

_SPELLINGS = 3
"""Values that a list of spellings is made for: booleans have two."""


def implied(
    expressions: Sequence[Expression], model: Scope, layers: Sequence[Scope]
) -> dict[str, Value]:
    """Return, for keys that a spec can do without, the value that means the same as
    null.

    It is found where expressions say ``c.key ?? other``, ``other if c.key is null``, or
    ask whether ``c.key`` is true.
    """
    found: dict[str, list[Value]] = {}
    for expression in expressions:
        for key, other in _without(expression.tree):
            value = _value(expression, other, model, layers)
            found.setdefault(key, []).extend(value)
    return {
        key: values[0]
        for key, values in found.items()
        if values and all(same(value, values[0]) for value in values)
    }


@dataclass(frozen=True)
class _Instead:
    """The expression that counts where a key is null."""

    tree: ast.expr
    in_layers: bool = False
    """True where it stands for an entry of a list, one for each layer."""


def _without(tree: ast.expr) -> Iterator[tuple[str, _Instead]]:
    inner: set[ast.expr] = set()
    for node in ast.walk(tree):  # a chain before its parts
        match node:
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                if node not in inner:
                    yield from _first_of(list(_operands(node)))
                inner |= {left, right}
            case ast.IfExp(test=test):
                yield from _branches(node)
                yield from _truths([test])
            case ast.BoolOp(values=values):
                yield from _truths(values)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield from _truths([operand])


def _operands(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _operands(node.left)
        yield from _operands(node.right)
    else:
        yield node


def _first_of(chain: list[ast.expr]) -> Iterator[tuple[str, _Instead]]:
    """Yield, for each key of ``c.a ?? c.b ?? 6``, the expression without it."""
    for at, node in enumerate(chain[:-1]):
        key = _key(node)
        if key:
            first, *rest = chain[:at] + chain[at + 1 :]
            for one in rest:
                first = ast.BinOp(first, ast.BitOr(), one)
            yield key, _Instead(first)


def _branches(node: ast.IfExp) -> Iterator[tuple[str, _Instead]]:
    """Yield from ``c.a if c.a is not null else …``, and ``c.a[i] if …`` for each
    layer."""
    match node.test:
        case ast.Compare(left=left, ops=[ast.IsNot() | ast.NotEq()], comparators=[to]):
            given, other = node.body, node.orelse
        case ast.Compare(left=left, ops=[ast.Is() | ast.Eq()], comparators=[to]):
            given, other = node.orelse, node.body
        case _:
            return
    key = _key(left)
    if key is None or not _is_null(to):
        return
    if _key(given) == key:
        yield key, _Instead(other)
    elif isinstance(given, ast.Subscript) and _key(given.value) == key:
        yield key, _Instead(other, in_layers=ast.unparse(given.slice) == "i")


def _truths(nodes: list[ast.expr]) -> Iterator[tuple[str, _Instead]]:
    """Yield false for keys that are asked for truth: null is not true."""
    for node in nodes:
        key = _key(node)
        if key:
            yield key, _Instead(ast.Constant(False))


def _key(node: ast.expr) -> str | None:
    """Return ``a`` of ``c.a``."""
    match node:
        case ast.Attribute(value=ast.Name(id="c"), attr=key):
            return key
    return None


def _is_null(node: ast.expr) -> bool:
    match node:
        case ast.Name(id="null") | ast.Constant(value=None):
            return True
    return False


def _value(
    expression: Expression, other: _Instead, model: Scope, layers: Collection[Scope]
) -> list[Value]:
    """Evaluate what counts instead; empty where it has no value."""
    instead = Expression(expression.text, expression.where, other.tree)
    try:
        if other.in_layers:
            return [[evaluate(instead, layer) for layer in layers]]
        return [evaluate(instead, model)]
    except GlmcError:
        return []


def same_as_none(
    expressions: Sequence[Expression], model: Scope, layers: Sequence[Scope]
) -> dict[str, list[Value]]:
    """Return, for keys with an entry for each layer or a list of layers, all values
    known to say the same as none, if this config says one of them.

    A config that is saved again spells out what its class made of nothing. How a list
    spells it is found by trying: values, flags, and indices of layers; each counts only
    if every expression that reads the key has the same value with it as without.
    """
    found: dict[str, list[Value]] = {}
    for key in sorted({key for one in expressions for key in _listed(one.tree)}):
        readers = [one for one in expressions if key in one.config_keys]
        silent = list(_values(readers, key, None, model, layers))
        count = len(layers) + 1
        tried: list[Value] = [None, []]
        for at in range(0, len(silent), count):
            tried += _spellings(silent[at + 1 : at + count])
        saying: list[Value] = []
        for value in tried:
            new = not any(same(value, other) for other in saying)
            if new and _alike(_values(readers, key, value, model, layers), silent):
                saying.append(value)
        if any(same(model.config.get(key), value) for value in saying):
            found[key] = saying
    return found


def _listed(tree: ast.expr) -> Iterator[str]:
    """Yield ``a`` of ``c.a[i]`` and of ``i in c.a``."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=of, slice=ast.Name(id="i")):
                key = _key(of)
            case ast.Compare(left=ast.Name(id="i"), ops=[ast.In()], comparators=[of]):
                key = _key(of)
            case _:
                continue
        if key:
            yield key


def _values(
    readers: Sequence[Expression],
    key: str,
    value: Value,
    model: Scope,
    layers: Sequence[Scope],
) -> Iterator[Value]:
    """Evaluate expressions in the model and each layer, as if the key had a value."""
    for one in readers:
        for scope in (model, *layers):
            config = {**scope.config, key: value}
            yield _outcome(one, Scope(config, scope.variables, scope.functions))


def _alike(some: Iterator[Value], others: Sequence[Value]) -> bool:
    return all(one == other for one, other in zip(some, others, strict=True))


def _outcome(expression: Expression, scope: Scope) -> Value:
    try:
        return evaluate(expression, scope)
    except GlmcError as error:
        return {"error": type(error).__name__}


def _spellings(values: Sequence[Value]) -> Iterator[list[Value]]:
    """Yield lists that could say what layers are: the values themselves, and for each
    of few values flags (1 or 0) and the indices of the layers that have it."""
    yield list(values)
    kinds: list[Value] = []
    for value in values:
        if value not in kinds:
            kinds.append(value)
    for kind in kinds[:_SPELLINGS]:
        yield [int(value == kind) for value in values]
        yield [at for at, value in enumerate(values) if value == kind]
