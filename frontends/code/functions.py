"""Python's own functions and types, as tables of the reader."""

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code import attributes, operators, plain, tensors
from glmc.frontends.code.kinds import TYPES
from glmc.frontends.code.strings import formatted, render
from glmc.frontends.code.values import (
    MISSING,
    Absent,
    Builtin,
    Class,
    Function,
    HostType,
    Instance,
    Iterator,
    Method,
    Op,
    Opaque,
    Raised,
    Static,
    Super,
)
from glmc.frontends.code.words import words

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine

_CALLABLE = (Function, Method, Builtin, Op, Class, HostType, Static)


def _isinstance(machine: "Machine", value: Any, kinds: Any) -> bool:
    if isinstance(kinds, tuple):
        return any(_isinstance(machine, value, kind) for kind in kinds)
    if isinstance(kinds, Class):
        return machine.is_instance(value, kinds)
    if isinstance(kinds, HostType):
        return isinstance(value, kinds.types)
    if isinstance(kinds, Opaque) and kinds.name.endswith("Callable"):
        return isinstance(value, _CALLABLE)
    if isinstance(kinds, Opaque) and kinds.name.endswith(("Sequence", "Iterable")):
        return isinstance(value, list | tuple | str)
    if isinstance(kinds, Opaque) and kinds.name.endswith("Mapping"):
        return isinstance(value, dict)
    if isinstance(kinds, Absent) or kinds is None:
        return kinds is None and value is None  # nothing can make an Absent's objects
    return machine.refuse(f"isinstance with {plain.type_name(kinds)}")


def _issubclass(machine: "Machine", value: Any, kinds: Any) -> bool:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, Class):
        return any(value == kind for kind in kinds)
    return any(isinstance(kind, Class) and value.derives(kind) for kind in kinds)


def _len(machine: "Machine", value: Any) -> int:
    if isinstance(value, Instance):
        found = machine.call(machine.get(value, "__len__"), (), {})
        return int(found) if isinstance(found, int) else 0
    if isinstance(value, Absent | Opaque):
        machine.refuse(f"the length of {value.name}, which the reader does not have")
    return len(value)


def _zip(machine: "Machine", *parts: Any, strict: Any = False) -> Iterator:
    columns = [list(machine.iterate(part)) for part in parts]
    if strict and len({len(one) for one in columns}) > 1:
        raise machine.error("ValueError", "zip() arguments have different lengths")
    return Iterator(iter(list(zip(*columns, strict=False))))


def _enumerate(machine: "Machine", values: Any, start: int = 0) -> Iterator:
    return Iterator(iter(list(enumerate(machine.iterate(values), start))))


def _map(machine: "Machine", function: Any, *parts: Any) -> Iterator:
    rows = zip(*(list(machine.iterate(part)) for part in parts), strict=False)
    return Iterator(iter([machine.call(function, row, {}) for row in rows]))


def _filter(machine: "Machine", function: Any, values: Any) -> Iterator:
    found = [
        value
        for value in machine.iterate(values)
        if machine.truth(
            value if function is None else machine.call(function, (value,), {})
        )
    ]
    return Iterator(iter(found))


def _reversed(machine: "Machine", values: Any) -> Iterator:
    return Iterator(iter(list(machine.iterate(values))[::-1]))


def _extreme(name: str) -> Callable[..., Any]:
    def run(
        machine: "Machine", *given: Any, key: Any = None, default: Any = MISSING
    ) -> Any:
        values = list(machine.iterate(given[0])) if len(given) == 1 else list(given)
        if not values:
            if default is MISSING:
                raise machine.error("ValueError", "the least or greatest of nothing")
            return default
        keys = values
        if key is not None:
            keys = [machine.call(key, (value,), {}) for value in values]
        best = 0
        for at in range(1, len(values)):
            tensor = any(isinstance(k, torch.Tensor) for k in (keys[at], keys[best]))
            node = ast.Lt() if name == "lt" else ast.Gt()
            if machine.truth(operators.compare(machine, node, keys[at], keys[best])):
                best = at
            if tensor:
                machine.from_data("minimum or maximum")
        return values[best]

    return run


def _sum(machine: "Machine", values: Any, start: Any = 0) -> Any:
    for value in machine.iterate(values):
        start = operators.binary(machine, "add", start, value)
    return start


def _any(machine: "Machine", values: Any) -> bool:
    return any(machine.truth(value) for value in machine.iterate(values))


def _all(machine: "Machine", values: Any) -> bool:
    return all(machine.truth(value) for value in machine.iterate(values))


def _abs(machine: "Machine", value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tensors.apply(machine, "abs", (value,), {})
    return abs(value)


def _round(machine: "Machine", value: Any, digits: int | None = None) -> Any:
    if isinstance(value, torch.Tensor):
        return tensors.apply(machine, "round", (value,), {})
    if digits is not None and abs(digits) > 30:
        machine.refuse("a number is rounded to more than 30 digits")
    return round(value, digits)


def _getattr(machine: "Machine", value: Any, name: Any, default: Any = MISSING) -> Any:
    name = plain.attribute_name(machine, name)
    if default is MISSING:
        return machine.get(value, name)
    depth = len(machine.frames)
    try:
        found = attributes.find(machine, value, name)
    except Raised as raised:
        if not raised.value.cls.derives(machine.builtins["AttributeError"]):
            raise
        del machine.frames[depth:]
        found = MISSING
    return default if found is MISSING else found


def _hasattr(machine: "Machine", value: Any, name: Any) -> bool:
    found = _getattr(machine, value, name, None)
    if found is None:
        missing = object()
        found = _getattr(machine, value, name, missing)
        return found is not missing
    return not isinstance(found, Absent)


def _setattr(machine: "Machine", value: Any, name: Any, new: Any) -> None:
    attributes.store(machine, value, plain.attribute_name(machine, name), new)


def _delattr(machine: "Machine", value: Any, name: Any) -> None:
    attributes.remove(machine, value, plain.attribute_name(machine, name))


def _callable(machine: "Machine", value: Any) -> bool:
    if isinstance(value, Instance):
        return value.cls.find("__call__") is not MISSING
    return isinstance(value, _CALLABLE)


def _next(machine: "Machine", value: Any, default: Any = MISSING) -> Any:
    if isinstance(value, Instance):
        return machine.call(machine.get(value, "__next__"), (), {})
    members = value.members if isinstance(value, Iterator) else None
    if members is None:
        raise machine.error("TypeError", "next() takes an iterator")
    found = next(members, MISSING)
    if found is MISSING and default is MISSING:
        raise machine.error("StopIteration", "")
    return default if found is MISSING else found


def _iter(machine: "Machine", value: Any) -> Iterator:
    if isinstance(value, Iterator):
        return value
    return Iterator(iter(machine.members(value)))


def _pow(machine: "Machine", left: Any, right: Any) -> Any:
    return operators.binary(machine, "pow", left, right)


def _vars(machine: "Machine", value: Any) -> Any:
    if not isinstance(value, Instance):
        machine.refuse("vars() of what is no object of the text")
    return value.names


def _nothing(machine: "Machine", *given: Any, **named: Any) -> None:
    """Do nothing, in place of ``print``."""


def _super(machine: "Machine", cls: Any, owner: Any) -> Super:
    kind = owner.cls if isinstance(owner, Instance) else owner
    if not isinstance(cls, Class) or not isinstance(kind, Class):
        machine.refuse("super() of what is no object of the text")
    if cls not in kind.order:
        raise machine.error("TypeError", "super(): the object is of another class")
    return Super(cls, owner)


def _repr(machine: "Machine", value: Any) -> str:
    return repr(value) if isinstance(value, str) else render(machine, value)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "isinstance": _isinstance,
    "issubclass": _issubclass,
    "len": _len,
    "zip": _zip,
    "enumerate": _enumerate,
    "map": _map,
    "filter": _filter,
    "reversed": _reversed,
    "sorted": operators.ordered,
    "min": _extreme("lt"),
    "max": _extreme("gt"),
    "sum": _sum,
    "any": _any,
    "all": _all,
    "abs": _abs,
    "round": _round,
    "getattr": _getattr,
    "hasattr": _hasattr,
    "setattr": _setattr,
    "delattr": _delattr,
    "callable": _callable,
    "next": _next,
    "iter": _iter,
    "pow": _pow,
    "vars": _vars,
    "print": _nothing,
    "super": _super,
    "repr": _repr,
    "id": lambda machine, value: id(value) % 1_000_003,
    "format": formatted,
    "divmod": lambda machine, a, b: (
        operators.binary(machine, "floordiv", a, b),
        operators.binary(machine, "mod", a, b),
    ),
}


REFUSED = words("""
    eval exec compile open __import__ input breakpoint globals locals dir
    memoryview bytearray bytes exit quit help complex hash
""")


def builtins() -> dict[str, Any]:
    """Return the names that every text finds without importing them; exceptions are
    added to them."""
    reason = "the reader does not carry that out"
    return {
        **{name: Builtin(name, run) for name, run in FUNCTIONS.items()},
        **{name: Absent(name, reason) for name in REFUSED},
        **TYPES,
        "Ellipsis": ...,
        "NotImplemented": Opaque("NotImplemented"),
    }
