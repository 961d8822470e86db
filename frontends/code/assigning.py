"""Assignment: names, attributes, items, and tuples of these."""

import ast
from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code import attributes, containers, tensors
from glmc.frontends.code.values import Instance, Scope

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine


def assign(machine: "Machine", target: ast.expr, value: Any, scope: Scope) -> None:
    """Give a target its value."""
    if isinstance(target, ast.Name):
        into = scope.elsewhere.get(target.id, scope)
        if len(into.names) >= machine.limits.items:
            machine.meter.items(len(into.names) + 1)
        into.names[target.id] = value
    elif isinstance(target, ast.Attribute):
        owner = machine.evaluate(target.value, scope)
        attributes.store(machine, owner, target.attr, value)
    elif isinstance(target, ast.Subscript):
        owner = machine.evaluate(target.value, scope)
        put(machine, owner, machine.evaluate(target.slice, scope), value)
    elif isinstance(target, ast.Tuple | ast.List):
        _unpack(machine, target.elts, value, scope)
    else:
        machine.refuse(f"{type(target).__name__} is no target that is read")


def _unpack(
    machine: "Machine", targets: list[ast.expr], value: Any, scope: Scope
) -> None:
    found = list(machine.iterate(value))
    stars = [at for at, one in enumerate(targets) if isinstance(one, ast.Starred)]
    if stars and len(found) >= len(targets) - 1:
        at = stars[0]
        end = len(found) - (len(targets) - at - 1)
        found[at:end] = [found[at:end]]
    if len(found) != len(targets):
        message = f"{len(targets)} values to unpack, and there are {len(found)}"
        raise machine.error("ValueError", message)
    for target, item in zip(targets, found, strict=True):
        inner = target.value if isinstance(target, ast.Starred) else target
        assign(machine, inner, item, scope)


def put(machine: "Machine", owner: Any, key: Any, value: Any) -> None:
    """Set ``owner[key] = value``."""
    if isinstance(owner, torch.Tensor):
        tensors.put(machine, owner, key, value)
    elif isinstance(owner, dict):
        containers.put(machine, owner, key, value)
    elif isinstance(owner, list) and isinstance(key, int):
        machine.host(owner.__setitem__, key, value)
    elif isinstance(owner, list) and isinstance(key, slice):
        items = list(machine.iterate(value))
        machine.meter.items(len(owner) + len(items))
        machine.host(owner.__setitem__, key, items)
    elif isinstance(owner, Instance):
        machine.call(machine.get(owner, "__setitem__"), (key, value), {})
    else:
        raise machine.error("TypeError", "the object takes no item assignment")
