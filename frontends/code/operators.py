"""Operators: sizes are checked before a result is made."""

import ast
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code import tensors
from glmc.frontends.code.values import (
    MISSING,
    Absent,
    Class,
    HostType,
    Instance,
    Opaque,
)

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine

BINARY: dict[type, str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "truediv",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.Pow: "pow",
    ast.MatMult: "matmul",
    ast.BitAnd: "and_",
    ast.BitOr: "or_",
    ast.BitXor: "xor",
    ast.LShift: "lshift",
    ast.RShift: "rshift",
}
ORDER: dict[type, str] = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}

_HOST: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in (*BINARY.values(), *ORDER.values())
}
_IN_PLACE = {"add": "add_", "sub": "sub_", "mul": "mul_", "truediv": "div_"}


def binary(machine: "Machine", name: str, left: Any, right: Any) -> Any:
    """Compute ``left OP right``."""
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        return tensors.apply(machine, f"operator.{name}", (left, right), {})
    if isinstance(left, Instance) or isinstance(right, Instance):
        return _instances(machine, name, left, right)
    for value in (left, right):
        if isinstance(value, Absent):
            machine.refuse(f"{value.name} is computed with, and {value.reason}")
    if isinstance(left, Opaque | HostType | Class) and name == "or_":
        return _either(left, right)
    if isinstance(left, int) and isinstance(right, int):
        return _integers(machine, name, left, right)
    if name == "mod" and isinstance(left, str):
        from glmc.frontends.code.strings import percent

        return percent(machine, left, right)
    _sizes(machine, name, left, right)
    return machine.host(_HOST[name], left, right)


def _either(left: Any, right: Any) -> Any:
    """Compute ``int | None``: the types of an ``isinstance``."""
    rights = right if isinstance(right, tuple) else (right,)
    return (left, *rights)


def _integers(machine: "Machine", name: str, left: int, right: int) -> Any:
    bits = left.bit_length() + right.bit_length()
    if name == "pow" and right > 0:
        bits = max(left.bit_length(), 1) * right
    elif name == "lshift":
        bits = left.bit_length() + max(right, 0)
    if bits > machine.limits.bits:
        machine.meter.number(bits)
    return machine.host(_HOST[name], left, right)


def _sizes(machine: "Machine", name: str, left: Any, right: Any) -> None:
    for one, other in ((left, right), (right, left)):
        if name == "mul" and isinstance(other, int):
            if isinstance(one, str):
                machine.meter.string(len(one) * max(other, 0))
            elif isinstance(one, list | tuple):
                machine.meter.items(len(one) * max(other, 0))
    if isinstance(left, str) and isinstance(right, str):
        machine.meter.string(len(left) + len(right))
    elif isinstance(left, list | tuple | set | dict) and not isinstance(right, int):
        size = len(right) if isinstance(right, list | tuple | set | dict) else 0
        machine.meter.items(len(left) + size)


def _instances(machine: "Machine", name: str, left: Any, right: Any) -> Any:
    plain = name.rstrip("_")
    tries = ((left, f"__{plain}__", right), (right, f"__r{plain}__", left))
    for owner, method, other in tries:
        if isinstance(owner, Instance) and owner.cls.find(method) is not MISSING:
            return machine.call(machine.get(owner, method), (other,), {})
    raise machine.error("TypeError", f"unsupported operand for {plain}")


def in_place(machine: "Machine", name: str, left: Any, right: Any) -> Any:
    """Compute ``left OP= right``: tensors and lists change, everything else is made
    anew."""
    if isinstance(left, torch.Tensor) and name in _IN_PLACE:
        return tensors.apply(machine, _IN_PLACE[name], (left, right), {})
    if isinstance(left, torch.Tensor):
        made = tensors.apply(machine, f"operator.{name}", (left, right), {})
        return tensors.apply(machine, "copy_", (left, made), {})
    if isinstance(left, list) and name == "add":
        for value in list(machine.iterate(right)):
            machine.meter.items(len(left) + 1 if len(left) >= 1000 else 0)
            left.append(value)
        return left
    if isinstance(left, dict | set) and name == "or_":
        machine.meter.items(len(left) + len(right))
        left.update(right)
        return left
    return binary(machine, name, left, right)


def unary(machine: "Machine", node: ast.unaryop, value: Any) -> Any:
    """Compute ``-x``, ``+x``, ``~x``; ``not`` is a condition and no operator."""
    name = {ast.USub: "neg", ast.UAdd: "pos", ast.Invert: "invert"}[type(node)]
    if isinstance(value, torch.Tensor):
        return tensors.apply(machine, f"operator.{name}", (value,), {})
    if isinstance(value, Absent):
        machine.refuse(f"{value.name} is computed with, and {value.reason}")
    return machine.host(getattr(operator, name), value)


def compare(machine: "Machine", node: ast.cmpop, left: Any, right: Any) -> Any:
    """Compute one comparison; tensors compare element by element."""
    if isinstance(node, ast.Is | ast.IsNot):
        same = _identical(left, right)
        return same if isinstance(node, ast.Is) else not same
    if isinstance(node, ast.In | ast.NotIn):
        found = contains(machine, right, left)
        return found if isinstance(node, ast.In) else not found
    tensor = isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor)
    if isinstance(node, ast.Eq | ast.NotEq):
        name = "eq" if isinstance(node, ast.Eq) else "ne"
        if tensor:
            if not _comparable(left) or not _comparable(right):
                return name == "ne"
            return tensors.apply(machine, f"operator.{name}", (left, right), {})
        same = equal(machine, left, right)
        return same if name == "eq" else not same
    name = ORDER[type(node)]
    if tensor:
        return tensors.apply(machine, f"operator.{name}", (left, right), {})
    return less(machine, name, left, right)


def _comparable(value: Any) -> bool:
    return isinstance(value, torch.Tensor | int | float)


def _identical(left: Any, right: Any) -> bool:
    if isinstance(left, Absent | Opaque | HostType):
        return type(left) is type(right) and left == right
    return left is right


def less(machine: "Machine", name: str, left: Any, right: Any) -> bool:
    """Order numbers, strings, or flat sequences and sets of these."""
    for value in (left, right):
        if isinstance(value, list | tuple):
            machine.meter.items(len(value))
            if not all(isinstance(one, int | float | str) for one in value):
                machine.refuse("sequences of more than plain values are ordered")
        elif isinstance(value, Absent):
            machine.refuse(f"{value.name} is compared, and {value.reason}")
    return bool(machine.host(_HOST[name], left, right))


def equal(machine: "Machine", left: Any, right: Any) -> bool:
    """Compute ``left == right`` for values that are no tensors; each member is
    counted."""
    machine.meter.step()
    if left is right:
        return True
    if isinstance(left, Instance) or isinstance(right, Instance):
        return _equal_instances(machine, left, right)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if isinstance(left, list) != isinstance(right, list) or len(left) != len(right):
            return False
        return all(equal(machine, a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        if left.keys() != right.keys():
            return False
        return all(equal(machine, left[key], right[key]) for key in left)
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        machine.from_data("comparison")
        same = isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)
        return same and bool(machine.host(torch.equal, left, right))
    if isinstance(left, str) and isinstance(right, str):
        machine.meter.string(0)
    return bool(left == right)


def _equal_instances(machine: "Machine", left: Any, right: Any) -> bool:
    for owner, other in ((left, right), (right, left)):
        if isinstance(owner, Instance) and owner.cls.find("__eq__") is not MISSING:
            result = machine.call(machine.get(owner, "__eq__"), (other,), {})
            return machine.truth(result)
    return False


def contains(machine: "Machine", values: Any, value: Any) -> bool:
    """Compute ``value in values``."""
    if isinstance(values, dict):
        return hashable(machine, value) in values
    if isinstance(values, set | frozenset):
        return hashable(machine, value) in values
    if isinstance(values, str):
        return bool(machine.host(operator.contains, values, value))
    if isinstance(values, range):
        return isinstance(value, int) and value in values
    own = isinstance(values, Instance)
    if own and values.cls.find("__contains__") is not MISSING:
        method = machine.get(values, "__contains__")
        return machine.truth(machine.call(method, (value,), {}))
    if isinstance(values, torch.Tensor):
        machine.from_data("membership")
        found = tensors.apply(machine, "operator.eq", (values, value), {})
        return bool(tensors.apply(machine, "any", (found,), {}))
    return any(equal(machine, one, value) for one in machine.iterate(values))


def hashable(machine: "Machine", value: Any) -> Any:
    """Return the value, if it may be a key; nested tuples are counted."""
    if isinstance(value, tuple):
        waiting = [value]
        while waiting:
            machine.meter.step(len(waiting[-1]) + 1)
            for one in waiting.pop():
                if isinstance(one, tuple):
                    waiting.append(one)
                else:
                    hashable(machine, one)
    elif isinstance(value, list | dict | set):
        raise machine.error("TypeError", f"unhashable type: {type(value).__name__!r}")
    return value


def ordered(
    machine: "Machine", values: Any, key: Any = None, reverse: Any = False
) -> list[Any]:
    """Do ``sorted``, by numbers, strings or flat tuples of these."""
    found = list(machine.iterate(values))
    machine.meter.items(len(found) * 8)
    keys = found if key is None else [machine.call(key, (v,), {}) for v in found]
    for one in keys:
        less(machine, "lt", one, one)
    at = sorted(range(len(found)), key=lambda i: keys[i], reverse=bool(reverse))
    return [found[i] for i in at]
