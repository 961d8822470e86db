"""Tensors: ops are looked up in tables and counted before they run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code import bounds, costs
from glmc.frontends.code.torch_tables import OPERATORS, TENSOR
from glmc.frontends.code.values import (
    MISSING,
    Absent,
    Builtin,
    HostType,
    Iterator,
    Method,
    Op,
)
from glmc.frontends.code.words import words

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine

FIELDS = words("""
    shape dtype device ndim T mT data requires_grad is_cuda is_meta itemsize
    real imag layout is_sparse is_quantized nbytes
""")
_IGNORED = words("""
    requires_grad grad _no_reinit _no_weight_decay _is_hf_initialized
    is_residual sequence_parallel partition_dim _is_buffer
""")
_PLAIN = (int, float, bool, str, type(None), type(Ellipsis), torch.dtype, torch.device,
          torch.memory_format, torch.layout, slice)  # fmt: skip
_DTYPES = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}
_DEVICES = ("cpu", "meta")
_NESTED = 6
_LONGEST_WORD = 100


def attribute(machine: "Machine", value: torch.Tensor, name: str) -> Any:
    """Return a field or a method of a tensor, or :data:`MISSING`."""
    if name in FIELDS:
        return getattr(value, name)
    op = TENSOR.get(name)
    if op is not None:
        return Method(op, value)
    if name in _NUMBERS:
        return Method(Builtin(name, _NUMBERS[name]), value)
    if name == "__class__":
        return machine.builtins["type"].make(machine, value)
    return MISSING


def store(machine: "Machine", value: torch.Tensor, name: str, new: Any) -> None:
    """Set ``tensor.name = new``: marks are ignored, ``data`` is copied into."""
    if name == "data" and isinstance(new, torch.Tensor):
        if new.shape != value.shape:
            machine.refuse("`tensor.data` is given another shape")
        apply(machine, "copy_", (value, new), {})
    elif name not in _IGNORED:
        machine.refuse(f"`tensor.{name}` is set")


def _item(machine: "Machine", value: torch.Tensor) -> Any:
    known(machine, value)
    machine.from_data("item")
    return value.item()


def _tolist(machine: "Machine", value: torch.Tensor) -> Any:
    known(machine, value)
    machine.from_data("tolist")
    machine.meter.items(value.numel())
    return value.tolist()


def _numpy(machine: "Machine", value: torch.Tensor) -> Any:
    """Return whole numbers as they are: numpy's arithmetic with them is torch's."""
    known(machine, value)
    if value.is_floating_point() or value.is_complex():
        machine.refuse("numbers that are not whole are given to numpy")
    machine.from_data("numpy")
    return value.clone()


def known(machine: "Machine", value: torch.Tensor) -> None:
    """Refuse to take numbers from a tensor that has only a shape."""
    if value.is_meta:
        machine.refuse("a number is taken from a tensor of which only sizes are known")


_NUMBERS = {
    "item": _item,
    "tolist": _tolist,
    "numpy": _numpy,
    "__len__": lambda machine, value: len(value),
}


def apply(
    machine: "Machine", name: str, given: Sequence[Any], named: Mapping[str, Any]
) -> Any:
    """Run an operator or a tensor method by its name in our tables."""
    op = OPERATORS[name[9:]] if name.startswith("operator.") else TENSOR[name]
    return run(machine, op, given, named)


def run(
    machine: "Machine", op: Op, given: Sequence[Any], named: Mapping[str, Any]
) -> Any:
    """Run an op: arguments are checked, its cost is counted, results are tracked."""
    values = [checked(machine, op, value) for value in given]
    more = {name: checked(machine, op, value) for name, value in named.items()}
    meta = any(value.is_meta for value in costs.tensors_of(values, more))
    elements, work = machine.host(op.cost, values, more)
    if meta or _on_meta(more):
        machine.meter.step(16)
    else:
        machine.meter.before(elements, work)
    name = op.name.rpartition(".")[2]
    if name in bounds.NAMES:
        machine.bounded(machine.host(bounds.met, name, values, more))
    result = machine.host(op.run, *values, **more)
    if isinstance(result, bool) and op.name.endswith(("equal", "allclose")):
        machine.from_data(op.name)
    if result.__class__ is torch.Tensor:
        machine.meter.track(result)
    elif isinstance(result, tuple | list):
        for one in result:
            if isinstance(one, torch.Tensor):
                machine.meter.track(one)
    return result


def _on_meta(named: Mapping[str, Any]) -> bool:
    device = named.get("device")
    return device == "meta" or (
        isinstance(device, torch.device) and device.type == "meta"
    )


def checked(machine: "Machine", op: Op, value: Any, depth: int = 0) -> Any:
    """Check an argument of torch: tensors and plain values, nothing that can be
    called."""
    if isinstance(value, torch.Tensor | bool | int | float | torch.dtype | slice):
        return value
    if isinstance(value, str):
        return _word(machine, op, value)
    if isinstance(value, torch.device):
        _word(machine, op, value.type)
        return value
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple) and depth < _NESTED:
        machine.meter.step(len(value))
        found = [checked(machine, op, one, depth + 1) for one in value]
        return found if isinstance(value, list) else tuple(found)
    if isinstance(value, Iterator):
        members = list(machine.iterate(value))
        return checked(machine, op, members, depth + 1)
    if isinstance(value, HostType) and value.name in _DTYPES:
        return _DTYPES[value.name]
    if isinstance(value, Absent):
        machine.refuse(f"{value.name} is given to {op.name}, and {value.reason}")
    kind = type(value).__name__.lower()
    if isinstance(value, list | tuple):
        machine.refuse(f"{op.name} is given lists more than {_NESTED} deep")
    return machine.refuse(f"{op.name} is given a {kind}, and takes plain values only")


def _word(machine: "Machine", op: Op, value: str) -> str:
    if len(value) > _LONGEST_WORD:
        machine.refuse(f"{op.name} is given a string of {len(value)} characters")
    if value.partition(":")[0] in ("cuda", "mps", "xpu", "npu", "hip"):
        machine.refuse(f"{op.name} is given the device {value!r}; texts run on the CPU")
    return value


def index(machine: "Machine", value: torch.Tensor, key: Any) -> Any:
    """Compute ``tensor[key]``."""
    key = _key(machine, key)
    machine.meter.before(*machine.host(costs.indexed, value, key))
    result = machine.host(torch.Tensor.__getitem__, value, key)
    machine.bounded(bounds.sliced(value.shape, key))
    machine.meter.track(result)
    return result


def put(machine: "Machine", value: torch.Tensor, key: Any, new: Any) -> None:
    """Set ``tensor[key] = new``."""
    key = _key(machine, key)
    if not isinstance(new, torch.Tensor | int | float | bool):
        machine.refuse("something that is no number is put into a tensor")
    machine.meter.before(*machine.host(costs.indexed, value, key))
    machine.meter.before(0, value.numel())
    machine.host(torch.Tensor.__setitem__, value, key, new)


_INDEX = Op("a tensor's index", None, costs.view)  # type: ignore[arg-type]


def _key(machine: "Machine", key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(checked(machine, _INDEX, one) for one in key)
    return checked(machine, _INDEX, key)
