"""Expressions: an evaluator for each kind of node."""

import ast
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code import containers, operators, strings, tensors
from glmc.frontends.code.assigning import assign
from glmc.frontends.code.plain import type_name
from glmc.frontends.code.values import (
    MISSING,
    Absent,
    Class,
    Function,
    HostType,
    Instance,
    Opaque,
    Scope,
    Super,
)
from glmc.frontends.code.values import Iterator as Members

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine


def _constant(machine: "Machine", node: ast.Constant, scope: Scope) -> Any:
    value = node.value
    if isinstance(value, int) and value.bit_length() > machine.limits.bits:
        machine.meter.number(value.bit_length())
    if isinstance(value, bytes | complex):
        machine.refuse(f"{type(value).__name__} values are not read")
    return value


def lookup(machine: "Machine", name: str, scope: Scope) -> Any:
    """Look up a name, from the innermost scope outwards."""
    one: Scope | None = scope
    while one is not None:
        if name in one.elsewhere:
            one = one.elsewhere[name]
        if name in one.names and (one.kind != "class" or one is scope):
            return one.names[name]
        one = one.parent
    if name in machine.builtins:
        return machine.builtins[name]
    raise machine.error("NameError", f"name {name!r} is not defined")


def _name(machine: "Machine", node: ast.Name, scope: Scope) -> Any:
    return lookup(machine, node.id, scope)


def _attribute(machine: "Machine", node: ast.Attribute, scope: Scope) -> Any:
    value = machine.evaluate(node.value, scope)
    machine.frames[-1].node = node
    return machine.get(value, node.attr)


def _call(machine: "Machine", node: ast.Call, scope: Scope) -> Any:
    if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args:
        return _super(machine, scope)
    function = machine.evaluate(node.func, scope)
    given = _spread(machine, node.args, scope)
    named: dict[str, Any] = {}
    for one in node.keywords:
        value = machine.evaluate(one.value, scope)
        if one.arg is not None:
            more = [(one.arg, value)]
        else:
            more = containers.pairs(machine, mapping(machine, value))
        for key, item in more:
            if not isinstance(key, str):
                raise machine.error("TypeError", "keywords must be strings")
            if key in named:
                message = f"got multiple values for keyword argument {key!r}"
                raise machine.error("TypeError", message)
            named[key] = item
    machine.frames[-1].node = node
    return machine.call(function, given, named)


def mapping(machine: "Machine", value: Any) -> Any:
    """Return the mapping behind ``**``: a mapping, or an object with keys."""
    if isinstance(value, Instance) and value.cls.find("keys") is not MISSING:
        keys = machine.call(machine.get(value, "keys"), (), {})
        return {k: subscript(machine, value, k) for k in machine.iterate(keys)}
    if not isinstance(value, dict):
        kind = type_name(value)
        raise machine.error("TypeError", f"argument after ** must be a mapping, {kind}")
    return value


def _super(machine: "Machine", scope: Scope) -> Super:
    one: Scope | None = scope
    while one is not None and one.kind != "function":
        one = one.parent
    while one is not None and one.function is not None and one.function.owner is None:
        one = one.parent
        while one is not None and one.kind != "function":
            one = one.parent
    if one is None or one.function is None or one.function.owner is None:
        raise machine.error("RuntimeError", "super(): no arguments")
    spec = one.function.node.args
    first = (*spec.posonlyargs, *spec.args)[:1]
    if not first:
        raise machine.error("RuntimeError", "super(): no arguments")
    return Super(one.function.owner, one.names[first[0].arg])


def _spread(machine: "Machine", nodes: list[ast.expr], scope: Scope) -> list[Any]:
    found: list[Any] = []
    for node in nodes:
        if isinstance(node, ast.Starred):
            for item in machine.iterate(machine.evaluate(node.value, scope)):
                containers.append(machine, found, item)
        else:
            found.append(machine.evaluate(node, scope))
    return found


def _tuple(machine: "Machine", node: ast.Tuple, scope: Scope) -> Any:
    return tuple(_spread(machine, node.elts, scope))


def _list(machine: "Machine", node: ast.List, scope: Scope) -> Any:
    return _spread(machine, node.elts, scope)


def _set(machine: "Machine", node: ast.Set, scope: Scope) -> Any:
    return containers.members(machine, _spread(machine, node.elts, scope))


def _dict(machine: "Machine", node: ast.Dict, scope: Scope) -> Any:
    found: dict[Any, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            given = mapping(machine, machine.evaluate(value, scope))
            for name, item in containers.pairs(machine, given):
                containers.put(machine, found, name, item)
        else:
            name = machine.evaluate(key, scope)
            containers.put(machine, found, name, machine.evaluate(value, scope))
    return found


def _binary(machine: "Machine", node: ast.BinOp, scope: Scope) -> Any:
    left = machine.evaluate(node.left, scope)
    right = machine.evaluate(node.right, scope)
    machine.frames[-1].node = node
    return operators.binary(machine, operators.BINARY[type(node.op)], left, right)


def _unary(machine: "Machine", node: ast.UnaryOp, scope: Scope) -> Any:
    value = machine.evaluate(node.operand, scope)
    if isinstance(node.op, ast.Not):
        return not machine.truth(value)
    return operators.unary(machine, node.op, value)


def _boolean(machine: "Machine", node: ast.BoolOp, scope: Scope) -> Any:
    stop = isinstance(node.op, ast.Or)
    value: Any = None
    for at, part in enumerate(node.values):
        value = machine.evaluate(part, scope)
        if at == len(node.values) - 1:
            break
        if machine.truth(value, part) is stop:
            break
    return value


def _compare(machine: "Machine", node: ast.Compare, scope: Scope) -> Any:
    left = machine.evaluate(node.left, scope)
    result: Any = True
    for at, (op, part) in enumerate(zip(node.ops, node.comparators, strict=True)):
        right = machine.evaluate(part, scope)
        machine.frames[-1].node = node
        _note(machine, node, op, left, right)
        result = operators.compare(machine, op, left, right)
        if at < len(node.ops) - 1 and not machine.truth(result):
            return result
        left = right
    return result


def _note(
    machine: "Machine", node: ast.Compare, op: ast.cmpop, left: Any, right: Any
) -> None:
    module = machine.frames[-1].module
    sized = type(left) is int and type(right) is int
    if sized and not module.contract and not isinstance(op, ast.Is | ast.IsNot):
        place = (module.file, node.lineno, node.col_offset)
        machine.records.compare(place, left, right)


def _choice(machine: "Machine", node: ast.IfExp, scope: Scope) -> Any:
    outcome = machine.truth(machine.evaluate(node.test, scope), node.test)
    return machine.evaluate(node.body if outcome else node.orelse, scope)


def _lambda(machine: "Machine", node: ast.Lambda, scope: Scope) -> Any:
    return function(machine, "<lambda>", node, scope)


def function(
    machine: "Machine", name: str, node: ast.FunctionDef | ast.Lambda, scope: Scope
) -> Function:
    """Make a function of the text; its defaults are evaluated now."""
    spec = node.args
    defaults = [machine.evaluate(one, scope) for one in spec.defaults]
    keywords = [
        MISSING if one is None else machine.evaluate(one, scope)
        for one in spec.kw_defaults
    ]
    return Function(name, node, scope, defaults, keywords, scope.owner)


def _named(machine: "Machine", node: ast.NamedExpr, scope: Scope) -> Any:
    value = machine.evaluate(node.value, scope)
    into = scope
    while into.kind == "comprehension" and into.parent is not None:
        into = into.parent
    into.names[node.target.id] = value
    return value


def subscript(machine: "Machine", value: Any, key: Any) -> Any:
    """Return ``value[key]``."""
    if isinstance(value, torch.Tensor):
        return tensors.index(machine, value, key)
    if isinstance(value, dict):
        operators.hashable(machine, key)
        return machine.host(lambda: value[key])
    if isinstance(value, list | tuple | str | range):
        return machine.host(lambda: value[_integer(machine, key)])
    if isinstance(value, Instance):
        method = value.cls.find("__getitem__")
        if method is not MISSING:
            return machine.call(machine.get(value, "__getitem__"), (key,), {})
    if isinstance(value, Opaque | HostType | Class | Absent):
        return value
    kind = type_name(value)
    raise machine.error("TypeError", f"{kind!r} object is not subscriptable")


def _integer(machine: "Machine", key: Any) -> Any:
    if isinstance(key, torch.Tensor):
        tensors.known(machine, key)
        machine.from_data("index")
        return int(key)
    if not isinstance(key, int | slice):
        raise machine.error("TypeError", "indices must be integers or slices")
    return key


def _subscript(machine: "Machine", node: ast.Subscript, scope: Scope) -> Any:
    value = machine.evaluate(node.value, scope)
    key = machine.evaluate(node.slice, scope)
    machine.frames[-1].node = node
    return subscript(machine, value, key)


def _slice(machine: "Machine", node: ast.Slice, scope: Scope) -> Any:
    parts = [
        None if part is None else machine.evaluate(part, scope)
        for part in (node.lower, node.upper, node.step)
    ]
    return slice(*(_bound(machine, part) for part in parts))


def _bound(machine: "Machine", part: Any) -> Any:
    if isinstance(part, torch.Tensor):
        tensors.known(machine, part)
        machine.from_data("slice")
        return int(part)
    return part


def _joined(machine: "Machine", node: ast.JoinedStr, scope: Scope) -> str:
    parts = [machine.evaluate(part, scope) for part in node.values]
    machine.meter.string(sum(map(len, parts)))
    return "".join(parts)


def _formatted(machine: "Machine", node: ast.FormattedValue, scope: Scope) -> str:
    value = machine.evaluate(node.value, scope)
    spec = machine.evaluate(node.format_spec, scope) if node.format_spec else ""
    return strings.formatted(machine, value, spec)


def inner(
    machine: "Machine", loops: list[ast.comprehension], scope: Scope
) -> Iterator[Scope]:
    """Yield the scopes in which the element of a comprehension is evaluated."""
    inside = Scope(scope.module, "comprehension", {}, scope, scope.function)
    yield from _loops(machine, loops, inside, scope)


def _loops(
    machine: "Machine", loops: list[ast.comprehension], inside: Scope, outside: Scope
) -> Iterator[Scope]:
    if not loops:
        yield inside
        return
    first, *rest = loops
    if first.is_async:
        machine.refuse("`async` is not read")
    for item in machine.iterate(machine.evaluate(first.iter, outside)):
        assign(machine, first.target, item, inside)
        if all(_condition(machine, test, inside) for test in first.ifs):
            yield from _loops(machine, rest, inside, inside)


def _condition(machine: "Machine", test: ast.expr, scope: Scope) -> bool:
    return machine.truth(machine.evaluate(test, scope), test)


def _list_comprehension(machine: "Machine", node: Any, scope: Scope) -> Any:
    found: list[Any] = []
    for inside in inner(machine, node.generators, scope):
        containers.append(machine, found, machine.evaluate(node.elt, inside))
    return found


def _set_comprehension(machine: "Machine", node: ast.SetComp, scope: Scope) -> Any:
    return containers.members(machine, _list_comprehension(machine, node, scope))


def _generator(machine: "Machine", node: ast.GeneratorExp, scope: Scope) -> Any:
    return Members(iter(_list_comprehension(machine, node, scope)))


def _dict_comprehension(machine: "Machine", node: ast.DictComp, scope: Scope) -> Any:
    found: dict[Any, Any] = {}
    for inside in inner(machine, node.generators, scope):
        key = machine.evaluate(node.key, inside)
        containers.put(machine, found, key, machine.evaluate(node.value, inside))
    return found


EXPRESSIONS: dict[type, Callable[..., Any]] = {
    ast.Attribute: _attribute,
    ast.BinOp: _binary,
    ast.BoolOp: _boolean,
    ast.Call: _call,
    ast.Compare: _compare,
    ast.Constant: _constant,
    ast.Dict: _dict,
    ast.DictComp: _dict_comprehension,
    ast.FormattedValue: _formatted,
    ast.GeneratorExp: _generator,
    ast.IfExp: _choice,
    ast.JoinedStr: _joined,
    ast.Lambda: _lambda,
    ast.List: _list,
    ast.ListComp: _list_comprehension,
    ast.Name: _name,
    ast.NamedExpr: _named,
    ast.Set: _set,
    ast.SetComp: _set_comprehension,
    ast.Slice: _slice,
    ast.Subscript: _subscript,
    ast.Tuple: _tuple,
    ast.UnaryOp: _unary,
}
