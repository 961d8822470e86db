"""Lists, mappings, sets, tuples: their methods, each of them within the limits."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glmc.frontends.code.operators import equal, hashable, ordered
from glmc.frontends.code.values import MISSING

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine

Table = dict[str, Callable[..., Any]]


def append(machine: "Machine", into: list[Any], value: Any) -> None:
    """Do ``list.append``."""
    if len(into) >= machine.limits.items:
        machine.meter.items(len(into) + 1)
    into.append(value)


def _extend(machine: "Machine", into: list[Any], values: Any) -> None:
    for value in list(machine.iterate(values)):
        append(machine, into, value)


def _insert(machine: "Machine", into: list[Any], at: int, value: Any) -> None:
    machine.meter.items(len(into) + 1)
    into.insert(at, value)


def _index(machine: "Machine", values: Any, value: Any) -> int:
    for at, one in enumerate(machine.iterate(values)):
        if equal(machine, one, value):
            return at
    raise machine.error("ValueError", "the value is not in the list")


def _count(machine: "Machine", values: Any, value: Any) -> int:
    return sum(equal(machine, one, value) for one in machine.iterate(values))


def _remove(machine: "Machine", values: list[Any], value: Any) -> None:
    del values[_index(machine, values, value)]


def _copy(machine: "Machine", value: Any) -> Any:
    machine.meter.items(len(value))
    return value.copy()


def _reverse(machine: "Machine", values: list[Any]) -> None:
    machine.meter.items(len(values))
    values.reverse()


def _sort(machine: "Machine", values: list[Any], **named: Any) -> None:
    values[:] = ordered(machine, values, **named)


def _pop(machine: "Machine", values: list[Any], at: int = -1) -> Any:
    return values.pop(at)


def _clear(machine: "Machine", values: Any) -> None:
    values.clear()


def _get(machine: "Machine", value: Any, key: Any, default: Any = None) -> Any:
    return value.get(hashable(machine, key), default)


def _take(machine: "Machine", value: Any, key: Any, default: Any = MISSING) -> Any:
    hashable(machine, key)
    return value.pop(key) if default is MISSING else value.pop(key, default)


def put(machine: "Machine", into: dict[Any, Any], key: Any, value: Any) -> None:
    """Set ``into[key] = value``."""
    hashable(machine, key)
    if len(into) >= machine.limits.items:
        machine.meter.items(len(into) + 1)
    into[key] = value


def _setdefault(machine: "Machine", into: Any, key: Any, value: Any = None) -> Any:
    if hashable(machine, key) not in into:
        put(machine, into, key, value)
    return into[key]


def _update(machine: "Machine", into: Any, given: Any = (), **named: Any) -> None:
    for key, value in pairs(machine, given):
        put(machine, into, key, value)
    for key, value in named.items():
        put(machine, into, key, value)


def pairs(machine: "Machine", given: Any) -> list[tuple[Any, Any]]:
    """Return the entries of a mapping, or of a sequence of pairs."""
    if isinstance(given, dict):
        machine.meter.items(len(given))
        return list(given.items())
    found = []
    for item in machine.iterate(given):
        pair = list(machine.iterate(item))
        if len(pair) != 2:
            raise machine.error("ValueError", "a mapping is made from pairs")
        found.append((pair[0], pair[1]))
    return found


def fromkeys(machine: "Machine", keys: Any, value: Any = None) -> dict[Any, Any]:
    """Do ``dict.fromkeys``."""
    found: dict[Any, Any] = {}
    for key in machine.iterate(keys):
        put(machine, found, key, value)
    return found


def view(name: str) -> Callable[..., Any]:
    """Make ``keys``, ``values`` and ``items``."""
    method = getattr(dict, name)
    return lambda machine, value: method(value)


def _add(machine: "Machine", into: set[Any], value: Any) -> None:
    machine.meter.items(len(into) + 1 if len(into) >= machine.limits.items else 0)
    into.add(hashable(machine, value))


def _discard(machine: "Machine", into: set[Any], value: Any) -> None:
    into.discard(hashable(machine, value))


def members(machine: "Machine", values: Any) -> set[Any]:
    """Return the members of something, as a set."""
    found: set[Any] = set()
    for value in machine.iterate(values):
        _add(machine, found, value)
    return found


def _sets(name: str) -> Callable[..., Any]:
    method = getattr(set, name)

    def run(machine: "Machine", value: Any, *others: Any) -> Any:
        machine.meter.items(len(value))
        return method(set(value), *(members(machine, other) for other in others))

    return run


def _update_set(machine: "Machine", into: set[Any], values: Any) -> None:
    for value in list(machine.iterate(values)):
        _add(machine, into, value)


LIST: Table = {
    "append": append,
    "extend": _extend,
    "insert": _insert,
    "index": _index,
    "count": _count,
    "remove": _remove,
    "copy": _copy,
    "reverse": _reverse,
    "sort": _sort,
    "pop": _pop,
    "clear": _clear,
}
TUPLE: Table = {"index": _index, "count": _count}
SIZE: Table = {**TUPLE, "numel": lambda machine, value: value.numel()}
DICT: Table = {
    "get": _get,
    "pop": _take,
    "setdefault": _setdefault,
    "update": _update,
    "copy": _copy,
    "clear": _clear,
    "keys": view("keys"),
    "values": view("values"),
    "items": view("items"),
}
SET: Table = {
    "add": _add,
    "discard": _discard,
    "remove": _discard,
    "update": _update_set,
    "copy": _copy,
    "clear": _clear,
    **{
        name: _sets(name)
        for name in ("union", "intersection", "difference", "issubset", "issuperset",
                     "symmetric_difference", "isdisjoint")
    },
}  # fmt: skip
