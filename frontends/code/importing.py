"""``import`` statements: tables, contracts, files beside the text, or nothing."""

import ast
from typing import TYPE_CHECKING, Any

from glmc.frontends.code import attributes
from glmc.frontends.code.values import MISSING, Absent, Module, Scope

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine


def import_names(machine: "Machine", node: ast.Import, scope: Scope) -> None:
    """Execute ``import a.b as c``."""
    for alias in node.names:
        value = _imported(machine, alias.name)
        if alias.asname:
            scope.names[alias.asname] = value
        else:
            top = alias.name.partition(".")[0]
            scope.names[top] = machine.importer(top)


def _imported(machine: "Machine", name: str) -> Any:
    value = machine.importer(name)
    if isinstance(value, Absent) and machine.frames[-1].trying:
        raise machine.error("ImportError", f"No module named {name!r}")
    return value


def import_from(machine: "Machine", node: ast.ImportFrom, scope: Scope) -> None:
    name = node.module or ""
    if node.level:
        parts = scope.module.package.split(".")
        kept = parts[: len(parts) - node.level + 1]
        name = ".".join([*kept, name] if name else kept)
    if name == "__future__":
        return
    module = _imported(machine, name)
    for alias in node.names:
        if alias.name == "*":
            _import_all(machine, module, name, scope)
            continue
        value = attributes.find(machine, module, alias.name)
        if value is MISSING or isinstance(value, Absent):
            full = f"{name}.{alias.name}"
            inner = machine.importer(full)
            # All of transformers is one namespace, which is not what was asked for.
            if value is MISSING or getattr(inner, "name", "") in (alias.name, full):
                value = inner
        if isinstance(value, Absent) and machine.frames[-1].trying:
            raise machine.error("ImportError", f"cannot import {alias.name!r}")
        scope.names[alias.asname or alias.name] = value


def _import_all(machine: "Machine", module: Any, name: str, scope: Scope) -> None:
    if not isinstance(module, Module) or module.contract:
        machine.refuse(f"`from {name} import *`, which does not say what it imports")
    machine.meter.items(len(module.names))
    for one, value in module.names.items():
        if not one.startswith("_"):
            scope.names[one] = value
