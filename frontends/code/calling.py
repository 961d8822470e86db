"""Calls: functions of the text, classes, and what tables have."""

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glmc.frontends.code import tensors
from glmc.frontends.code.values import (
    MISSING,
    Absent,
    Builtin,
    Class,
    ClassMethod,
    Function,
    HostType,
    Instance,
    Method,
    Op,
    Opaque,
    Scope,
    Static,
)

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine

Given = Sequence[Any]
Named = Mapping[str, Any]


def call(machine: "Machine", function: Any, given: Given, named: Named) -> Any:
    """Call anything that can be called; the rest is a TypeError of the text."""
    if isinstance(function, Op):
        return tensors.run(machine, function, given, named)
    if isinstance(function, Function):
        return _text(machine, function, given, named)
    if isinstance(function, Method):
        return call(machine, function.function, (function.owner, *given), named)
    if isinstance(function, Builtin):
        return machine.host(function.run, machine, *given, **named)
    if isinstance(function, Class):
        return instantiate(machine, function, given, named)
    if isinstance(function, Instance):
        return _instance(machine, function, given, named)
    if isinstance(function, Static | ClassMethod):
        return call(machine, function.function, given, named)
    if isinstance(function, HostType) and function.make is not None:
        return machine.host(function.make, machine, *given, **named)
    if isinstance(function, Opaque):
        return function
    if isinstance(function, Absent):
        machine.refuse(f"{function.name} is called, and {function.reason}")
    raise machine.error("TypeError", "something that is not callable is called")


def instantiate(machine: "Machine", cls: Class, given: Given, named: Named) -> Any:
    """Return a new object of a class of the text."""
    if cls.reason:
        machine.refuse(f"an object of {cls.name} is made, and {cls.reason}")
    if cls.find("__new__") is not MISSING:
        machine.refuse(f"{cls.name} has a `__new__` of its own, which is not read")
    made = Instance(cls)
    init = cls.find("__init__")
    if init is not MISSING:
        call(machine, init, (made, *given), named)
    elif given or named:
        raise machine.error("TypeError", f"{cls.name}() takes no arguments")
    return made


def _instance(machine: "Machine", value: Instance, given: Given, named: Named) -> Any:
    method = value.cls.find("__call__")
    if method is MISSING:
        raise machine.error("TypeError", f"{value.cls.name!r} is not callable")
    result = call(machine, method, (value, *given), named)
    watcher = machine.watching.get(id(value))
    if watcher is not None:
        watcher(result)
    return result


def _text(machine: "Machine", function: Function, given: Given, named: Named) -> Any:
    node = function.node
    scope = Scope(function.scope.module, "function", {}, function.scope, function)
    bind(machine, function, given, named, scope.names)
    frame = machine.enter(function.scope.module)
    frame.node = node
    if isinstance(node, ast.Lambda):
        result = machine.evaluate(node.body, scope)
    else:
        if is_generator(node):
            machine.refuse(f"{function.name} is a generator, which is not read")
        result = machine.body(node.body, scope)
    machine.frames.pop()
    return result


def is_generator(node: ast.FunctionDef) -> bool:
    """Tell whether a function's own body has a ``yield``."""
    found = getattr(node, "_yields", None)
    if found is None:
        found = _yields(node.body)
        node._yields = found  # type: ignore[attr-defined]
    return bool(found)


def _yields(nodes: Sequence[ast.AST]) -> bool:
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)
    return False


def bind(
    machine: "Machine",
    function: Function,
    given: Given,
    named: Named,
    names: dict[str, Any],
) -> None:
    """Give the parameters of a function their values, or raise as Python does."""
    spec = function.node.args
    plain = [arg.arg for arg in (*spec.posonlyargs, *spec.args)]
    machine.meter.step(len(given) + len(named))
    names.update(zip(plain, given, strict=False))
    if len(given) > len(plain) and spec.vararg is None:
        raise machine.error(
            "TypeError",
            f"{function.name}() takes {len(plain)} positional arguments but"
            f" {len(given)} were given",
        )
    if spec.vararg is not None:
        names[spec.vararg.arg] = tuple(given[len(plain) :])
    known = {arg.arg for arg in (*spec.args, *spec.kwonlyargs)}
    rest: dict[str, Any] = {}
    for name, value in named.items():
        if name not in known:
            rest[name] = value
        elif name in names and name in plain[: len(given)]:
            message = f"{function.name}() got multiple values for argument {name!r}"
            raise machine.error("TypeError", message)
        else:
            names[name] = value
    if spec.kwarg is not None:
        names[spec.kwarg.arg] = rest
    elif rest:
        message = f"{function.name}() got an unexpected keyword argument"
        raise machine.error("TypeError", f"{message} {next(iter(rest))!r}")
    _defaults(machine, function, plain, names)


def _defaults(
    machine: "Machine", function: Function, plain: list[str], names: dict[str, Any]
) -> None:
    spec = function.node.args
    first = len(plain) - len(function.defaults)
    for at, name in enumerate(plain):
        if name not in names and at >= first:
            names[name] = function.defaults[at - first]
    for arg, value in zip(spec.kwonlyargs, function.keyword_defaults, strict=True):
        if arg.arg not in names and value is not MISSING:
            names[arg.arg] = value
    for name in (*plain, *(arg.arg for arg in spec.kwonlyargs)):
        if name not in names:
            message = f"{function.name}() missing a required argument: {name!r}"
            raise machine.error("TypeError", message)
