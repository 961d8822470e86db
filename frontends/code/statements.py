"""Statements: an executor for each kind of node."""

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glmc.frontends.code import attributes, definitions, importing, operators
from glmc.frontends.code.assigning import assign, put
from glmc.frontends.code.expressions import lookup, subscript
from glmc.frontends.code.values import (
    Class,
    Instance,
    Opaque,
    Raised,
    Returned,
    Scope,
)

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine

BREAK, CONTINUE = "break", "continue"


def _expression(machine: "Machine", node: ast.Expr, scope: Scope) -> None:
    if not isinstance(node.value, ast.Constant):
        machine.evaluate(node.value, scope)


def _assign(machine: "Machine", node: ast.Assign, scope: Scope) -> None:
    value = machine.evaluate(node.value, scope)
    for target in node.targets:
        assign(machine, target, value, scope)


def _annotated(machine: "Machine", node: ast.AnnAssign, scope: Scope) -> None:
    if node.value is not None:
        assign(machine, node.target, machine.evaluate(node.value, scope), scope)


def _augmented(machine: "Machine", node: ast.AugAssign, scope: Scope) -> None:
    name = operators.BINARY[type(node.op)]
    target = node.target
    if isinstance(target, ast.Name):
        left = lookup(machine, target.id, scope)
        right = machine.evaluate(node.value, scope)
        assign(machine, target, operators.in_place(machine, name, left, right), scope)
        return
    owner = machine.evaluate(target.value, scope)
    right = machine.evaluate(node.value, scope)
    if isinstance(target, ast.Attribute):
        left = machine.get(owner, target.attr)
        result = operators.in_place(machine, name, left, right)
        attributes.store(machine, owner, target.attr, result)
    else:
        key = machine.evaluate(target.slice, scope)
        left = subscript(machine, owner, key)
        put(machine, owner, key, operators.in_place(machine, name, left, right))


def _return(machine: "Machine", node: ast.Return, scope: Scope) -> Returned:
    value = None if node.value is None else machine.evaluate(node.value, scope)
    return Returned(value)


def _if(machine: "Machine", node: ast.If, scope: Scope) -> Any:
    outcome = machine.truth(machine.evaluate(node.test, scope), node.test)
    return machine.execute(node.body if outcome else node.orelse, scope)


def _for(machine: "Machine", node: ast.For, scope: Scope) -> Any:
    for item in machine.iterate(machine.evaluate(node.iter, scope)):
        assign(machine, node.target, item, scope)
        signal = machine.execute(node.body, scope)
        if signal is BREAK:
            return None
        if isinstance(signal, Returned):
            return signal
    return machine.execute(node.orelse, scope)


def _while(machine: "Machine", node: ast.While, scope: Scope) -> Any:
    while machine.truth(machine.evaluate(node.test, scope), node.test):
        signal = machine.execute(node.body, scope)
        if signal is BREAK:
            return None
        if isinstance(signal, Returned):
            return signal
    return machine.execute(node.orelse, scope)


def _with(machine: "Machine", node: ast.With, scope: Scope) -> Any:
    return _within(machine, node.items, node.body, scope)


def _within(
    machine: "Machine", items: list[ast.withitem], body: list[ast.stmt], scope: Scope
) -> Any:
    if not items:
        return machine.execute(body, scope)
    context = machine.evaluate(items[0].context_expr, scope)
    value, depth = context, len(machine.frames)
    if isinstance(context, Instance):
        value = machine.call(machine.get(context, "__enter__"), (), {})
    elif not isinstance(context, Opaque):
        machine.refuse("a `with` over something that no table has")
    if items[0].optional_vars is not None:
        assign(machine, items[0].optional_vars, value, scope)
    if isinstance(context, Opaque):
        return _within(machine, items[1:], body, scope)
    leave = machine.get(context, "__exit__")
    try:
        signal = _within(machine, items[1:], body, scope)
    except Raised as raised:
        del machine.frames[depth:]
        given = (raised.value.cls, raised.value, None)
        if machine.truth(machine.call(leave, given, {})):
            return None
        raise
    machine.call(leave, (None, None, None), {})
    return signal


def _raise(machine: "Machine", node: ast.Raise, scope: Scope) -> None:
    if node.exc is None:
        found = scope.names.get("<exception>")
        if not isinstance(found, Instance):
            raise machine.error("RuntimeError", "no active exception to raise")
        raise Raised(found, machine.place())
    value = machine.evaluate(node.exc, scope)
    if isinstance(value, Class):
        value = machine.call(value, (), {})
    base = machine.builtins["BaseException"]
    if not machine.is_instance(value, base):
        machine.refuse("something is raised that is no exception of the text")
    raise Raised(value, machine.place())


def _try(machine: "Machine", node: ast.Try, scope: Scope) -> Any:
    depth = len(machine.frames)
    try:
        signal = _guarded(machine, node, scope)
    except Raised:
        del machine.frames[depth:]
        last = machine.execute(node.finalbody, scope)
        if last is not None:
            return last
        raise
    last = machine.execute(node.finalbody, scope)
    return signal if last is None else last


def _guarded(machine: "Machine", node: ast.Try, scope: Scope) -> Any:
    depth, frame = len(machine.frames), machine.frames[-1]
    frame.trying += 1
    try:
        signal = machine.execute(node.body, scope)
    except Raised as raised:
        del machine.frames[depth:]
        frame.trying -= 1
        return _handle(machine, node, raised, scope)
    frame.trying -= 1
    return machine.execute(node.orelse, scope) if signal is None else signal


def _handle(machine: "Machine", node: ast.Try, raised: Raised, scope: Scope) -> Any:
    for handler in node.handlers:
        if _caught(machine, handler, raised, scope):
            if handler.name:
                scope.names[handler.name] = raised.value
            scope.names["<exception>"] = raised.value
            return machine.execute(handler.body, scope)
    raise raised


def _caught(
    machine: "Machine", handler: ast.ExceptHandler, raised: Raised, scope: Scope
) -> bool:
    if handler.type is None:
        return True
    kinds = machine.evaluate(handler.type, scope)
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    return any(
        isinstance(kind, Class) and raised.value.cls.derives(kind) for kind in kinds
    )


def _assert(machine: "Machine", node: ast.Assert, scope: Scope) -> None:
    if not machine.truth(machine.evaluate(node.test, scope), node.test):
        told = "" if node.msg is None else machine.evaluate(node.msg, scope)
        raise machine.error("AssertionError", str(told) if told else "assert")


def _global(machine: "Machine", node: ast.Global, scope: Scope) -> None:
    for name in node.names:
        top = Scope(scope.module, "module", scope.module.names)
        scope.elsewhere[name] = top


def _nonlocal(machine: "Machine", node: ast.Nonlocal, scope: Scope) -> None:
    for name in node.names:
        one = scope.parent
        while one is not None and (one.kind == "class" or name not in one.names):
            one = one.parent
        if one is None or one.kind == "module":
            raise machine.error("SyntaxError", f"no binding for nonlocal {name!r}")
        scope.elsewhere[name] = one


def _delete(machine: "Machine", node: ast.Delete, scope: Scope) -> None:
    for target in node.targets:
        if isinstance(target, ast.Name):
            scope.names.pop(target.id, None)
        elif isinstance(target, ast.Attribute):
            owner = machine.evaluate(target.value, scope)
            attributes.remove(machine, owner, target.attr)
        elif isinstance(target, ast.Subscript):
            owner = machine.evaluate(target.value, scope)
            key = machine.evaluate(target.slice, scope)
            if not isinstance(owner, list | dict):
                machine.refuse("an item of something else than a list is deleted")
            machine.host(owner.__delitem__, key)
        else:
            machine.refuse("`del` of several things in brackets is not read")


def _nothing(machine: "Machine", node: ast.stmt, scope: Scope) -> None:
    """Do nothing, for ``pass``."""


def _break(machine: "Machine", node: ast.stmt, scope: Scope) -> str:
    return BREAK


def _continue(machine: "Machine", node: ast.stmt, scope: Scope) -> str:
    return CONTINUE


STATEMENTS: dict[type, Callable[..., Any]] = {
    ast.AnnAssign: _annotated,
    ast.Assert: _assert,
    ast.Assign: _assign,
    ast.AugAssign: _augmented,
    ast.Break: _break,
    ast.ClassDef: definitions.define_class,
    ast.Continue: _continue,
    ast.Delete: _delete,
    ast.Expr: _expression,
    ast.For: _for,
    ast.FunctionDef: definitions.define,
    ast.Global: _global,
    ast.If: _if,
    ast.Import: importing.import_names,
    ast.ImportFrom: importing.import_from,
    ast.Nonlocal: _nonlocal,
    ast.Pass: _nothing,
    ast.Raise: _raise,
    ast.Return: _return,
    ast.Try: _try,
    ast.While: _while,
    ast.With: _with,
}
