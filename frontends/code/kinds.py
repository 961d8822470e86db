"""Python's own types, as tables of the reader: what they make of a value."""

from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code import containers, plain, tensors
from glmc.frontends.code.strings import render
from glmc.frontends.code.values import (
    Class,
    ClassMethod,
    HostType,
    Instance,
    Module,
    Property,
    Static,
)

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine


def _int(machine: "Machine", value: Any = 0, base: int = 10) -> int:
    if isinstance(value, torch.Tensor):
        tensors.known(machine, value)
        machine.from_data("int")
    if isinstance(value, str):
        if len(value) > 300:
            machine.meter.number(4 * len(value))
        return int(value, base)
    return int(value)


def _float(machine: "Machine", value: Any = 0.0) -> float:
    if isinstance(value, torch.Tensor):
        tensors.known(machine, value)
        machine.from_data("float")
    return float(value)


def _str(machine: "Machine", value: Any = "") -> str:
    return render(machine, value)


def _collected(machine: "Machine", values: Any) -> list[Any]:
    if isinstance(values, range | list | tuple | dict | set):
        machine.meter.items(len(values))
    found: list[Any] = []
    for value in machine.iterate(values):
        containers.append(machine, found, value)
    return found


def _tuple(machine: "Machine", values: Any = ()) -> tuple[Any, ...]:
    return tuple(_collected(machine, values))


def _list(machine: "Machine", values: Any = ()) -> list[Any]:
    return _collected(machine, values)


def _dict(machine: "Machine", given: Any = (), **named: Any) -> dict[Any, Any]:
    if isinstance(given, Instance):
        from glmc.frontends.code.expressions import mapping

        given = mapping(machine, given)
    found: dict[Any, Any] = {}
    for key, value in [*containers.pairs(machine, given), *named.items()]:
        containers.put(machine, found, key, value)
    return found


def _set(machine: "Machine", values: Any = ()) -> set[Any]:
    return containers.members(machine, values)


def _type(machine: "Machine", value: Any, *more: Any) -> Any:
    if more:
        machine.refuse("a class is made with type()")
    if isinstance(value, Instance):
        return value.cls
    for kind in TYPES.values():
        if kind.name != "object" and type(value) in kind.types:
            return kind
    return HostType(plain.type_name(value), (type(value),))


def _range(machine: "Machine", *ends: Any) -> range:
    found = [int(e) if isinstance(e, torch.Tensor) and not e.is_meta else e
             for e in ends]  # fmt: skip
    if any(isinstance(end, torch.Tensor) for end in ends):
        machine.from_data("range")
    return range(*found)


def _slice(machine: "Machine", *ends: Any) -> slice:
    return slice(*ends)


def _object(machine: "Machine") -> Instance:
    return Instance(Class("object", (), {}, Module("object", "the reader")))


def _property(machine: "Machine", get: Any = None, set: Any = None) -> Property:
    return Property(get, set)


TYPES: dict[str, HostType] = {
    name: HostType(name, types, make)
    for name, types, make in (
        ("bool", (bool,), lambda machine, value=False: machine.truth(value)),
        ("int", (int,), _int),
        ("float", (float,), _float),
        ("str", (str,), _str),
        ("list", (list,), _list),
        ("tuple", (tuple,), _tuple),
        ("dict", (dict,), _dict),
        ("set", (set,), _set),
        ("frozenset", (frozenset,), lambda machine, v=(): frozenset(_set(machine, v))),
        ("range", (range,), _range),
        ("slice", (slice,), _slice),
        ("type", (Class, HostType), _type),
        ("object", (object,), _object),
        ("property", (Property,), _property),
        ("staticmethod", (Static,), lambda machine, function: Static(function)),
        ("classmethod", (ClassMethod,), lambda machine, f: ClassMethod(f)),
    )
}
