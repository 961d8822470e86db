"""Functions and classes that a text defines, and their decorators."""

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glmc.frontends.code.assigning import assign
from glmc.frontends.code.expressions import function
from glmc.frontends.code.values import (
    Absent,
    Class,
    ClassMethod,
    HostType,
    Opaque,
    Property,
    Scope,
    Static,
    linearised,
)

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine


_LONGEST_ORDER = 100


_METACLASSES = ("abc.ABCMeta", "type")


def define(machine: "Machine", node: ast.FunctionDef, scope: Scope) -> None:
    """Execute a ``def`` statement: its defaults and its decorators."""
    made: Any = function(machine, node.name, node, scope)
    for decorator in reversed(node.decorator_list):
        made = decorated(machine, decorator, made, scope)
    assign(machine, ast.Name(node.name, lineno=node.lineno), made, scope)


def decorated(machine: "Machine", decorator: ast.expr, made: Any, scope: Scope) -> Any:
    """Apply a decorator to a function or a class."""
    how = machine.evaluate(decorator, scope)
    if isinstance(how, Opaque):
        return made
    if isinstance(how, Absent):
        name = getattr(made, "name", "something")
        return Absent(name, f"it is decorated by {how.name}, and {how.reason}")
    if isinstance(how, HostType) and how.name in _DESCRIPTORS:
        return _DESCRIPTORS[how.name](made)
    return machine.call(how, (made,), {})


_DESCRIPTORS: dict[str, Callable[[Any], Any]] = {
    "property": Property,
    "cached_property": lambda made: Property(made, cached=True),
    "staticmethod": Static,
    "classmethod": ClassMethod,
}


def define_class(machine: "Machine", node: ast.ClassDef, scope: Scope) -> None:
    """Execute a ``class`` statement: its bases, its body, its decorators."""
    bases, reason = _bases(machine, node, scope)
    _keywords(machine, node, scope)
    made = Class(node.name, bases, {}, scope.module, node.lineno, reason=reason)
    order = linearised(node.name, bases)
    if order is None or len(order) > _LONGEST_ORDER:
        raise machine.error("TypeError", f"the bases of {node.name} have no order")
    made.order = (made, *order)
    machine.meter.step(len(order))
    inside = Scope(scope.module, "class", made.names, scope, owner=made)
    machine.execute(node.body, inside)
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            made.fields[part.target.id] = part
    result: Any = made
    for decorator in reversed(node.decorator_list):
        result = decorated(machine, decorator, result, scope)
    assign(machine, ast.Name(node.name, lineno=node.lineno), result, scope)
    for one in order:
        hook = one.names.get("__init_subclass__")
        if hook is not None:
            inner = hook.function if isinstance(hook, ClassMethod) else hook
            machine.call(inner, (made,), {})
            break


def _bases(
    machine: "Machine", node: ast.ClassDef, scope: Scope
) -> tuple[tuple[Class, ...], str]:
    """Return the bases that are classes, and the reason why no object can be made, if
    so."""
    bases: list[Class] = []
    reason = ""
    for one in node.bases:
        base = machine.evaluate(one, scope)
        if isinstance(base, Class):
            bases.append(base)
            reason = reason or base.reason
        elif isinstance(base, Absent):
            reason = f"its base {base.name} is unknown: {base.reason}"
        elif isinstance(base, HostType) and base.name != "object":
            reason = f"its base is {base.name}"
        elif not isinstance(base, Opaque | HostType):
            machine.refuse(f"the class {node.name} has a base that is no class")
    return tuple(bases), reason


def _keywords(machine: "Machine", node: ast.ClassDef, scope: Scope) -> None:
    for one in node.keywords:
        value = machine.evaluate(one.value, scope)
        known = isinstance(value, Opaque) and value.name in _METACLASSES
        if one.arg == "metaclass" and not known:
            machine.refuse(f"{node.name} has a metaclass of its own")
