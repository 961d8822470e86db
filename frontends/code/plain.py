"""Plain values: their types by name, and the tables of their methods."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code import containers, strings
from glmc.frontends.code.strings import render
from glmc.frontends.code.values import (
    MISSING,
    Builtin,
    Class,
    Function,
    HostType,
    Instance,
    Method,
)

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine

__all__ = ["VIEWS", "attribute", "attribute_name", "render", "type_name"]

VIEWS: tuple[type[Any], ...] = (type({}.keys()), type({}.values()), type({}.items()))

_MAX_NAME = 200

Table = dict[type, dict[str, Callable[..., Any]]]

_PAIRS = tuple(
    getattr(torch.return_types, name)
    for name in ("max", "min", "topk", "sort", "median", "kthvalue", "cummax", "cummin")
)

METHODS: Table = {
    str: strings.METHODS,
    list: containers.LIST,
    dict: containers.DICT,
    set: containers.SET,
    frozenset: containers.SET,
    tuple: containers.TUPLE,
    torch.Size: containers.SIZE,
    int: {"bit_length": lambda machine, value: value.bit_length()},
    float: {"is_integer": lambda machine, value: value.is_integer()},
}

FIELDS: dict[type, tuple[str, ...]] = {
    torch.dtype: ("is_floating_point", "is_complex", "itemsize"),
    torch.device: ("type", "index"),
    torch.finfo: ("min", "max", "eps", "tiny", "bits", "smallest_normal"),
    torch.iinfo: ("min", "max", "bits"),
    slice: ("start", "stop", "step"),
    range: ("start", "stop", "step"),
    int: ("real", "imag", "numerator", "denominator"),
    float: ("real", "imag"),
    **dict.fromkeys(_PAIRS, ("values", "indices")),
}


def attribute(machine: "Machine", value: Any, name: str) -> Any:
    """Return a field or a method of a plain value, or :data:`MISSING`."""
    kind = type(value)
    if name in FIELDS.get(kind, ()):
        return getattr(value, name)
    method = METHODS.get(kind, {}).get(name)
    if method is not None:
        return Method(Builtin(name, method), value)
    if name == "__class__":
        return machine.builtins["type"].make(machine, value)
    if name == "__len__" and isinstance(value, list | tuple | dict | str | set):
        return Builtin(name, lambda machine: len(value))
    return MISSING


def type_attribute(machine: "Machine", value: HostType, name: str) -> Any:
    """Return an attribute of a type itself:
    ``dict.fromkeys``, ``object.__setattr__``."""
    if name in ("__name__", "__qualname__"):
        return value.name.rpartition(".")[2]
    if value.name == "object":
        from glmc.frontends.code.attributes import _RAW

        return _RAW.get(name, MISSING)
    if value.name == "dict" and name == "fromkeys":
        return Builtin(name, containers.fromkeys)
    for kind in value.types[:1]:
        method = METHODS.get(kind, {}).get(name)
        if method is not None:
            return Builtin(name, method)
    return MISSING


def type_name(value: Any) -> str:
    """Return the name of a value's type, for messages."""
    if isinstance(value, Instance):
        return value.cls.name
    if isinstance(value, Class):
        return f"class {value.name}"
    if isinstance(value, Function):
        return f"function {value.name}"
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else type(value).__name__


def attribute_name(machine: "Machine", name: Any) -> str:
    """Check a name that a text computed, for ``getattr`` and its like."""
    if type(name) is not str:
        raise machine.error("TypeError", "attribute name must be string")
    if len(name) > _MAX_NAME:
        machine.refuse(f"an attribute's name has {len(name)} characters")
    return name
