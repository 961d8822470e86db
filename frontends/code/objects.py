"""Copies, dataclasses, parameters and buffers: what texts and contracts make."""

import ast
from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code import tensors
from glmc.frontends.code.values import MISSING, Builtin, Class, Instance

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine


def deepcopy(machine: "Machine", value: Any, memo: Any = None) -> Any:
    """Do ``copy.deepcopy``; objects are copied once, tensors with their numbers."""
    memo = {} if memo is None else memo
    machine.meter.step()
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, torch.Tensor):
        made: Any = tensors.apply(machine, "clone", (value,), {})
        made = torch.nn.Parameter(made, False) if is_parameter(value) else made
    elif isinstance(value, Instance):
        made = memo[id(value)] = Instance(value.cls)
        made.names.update(deepcopy(machine, value.names, memo))
    elif isinstance(value, list):
        made = memo[id(value)] = []
        made += [deepcopy(machine, one, memo) for one in value]
    elif isinstance(value, tuple) and type(value) is tuple:
        made = tuple(deepcopy(machine, one, memo) for one in value)
    elif isinstance(value, dict):
        made = memo[id(value)] = {}
        made |= {k: deepcopy(machine, v, memo) for k, v in value.items()}
    else:
        made = value
    memo[id(value)] = made
    return made


def shallow(machine: "Machine", value: Any) -> Any:
    if isinstance(value, Instance):
        return Instance(value.cls, dict(value.names))
    return value.copy() if isinstance(value, list | dict | set) else value


def is_parameter(value: Any) -> bool:
    """Tell whether a tensor is a weight of a module."""
    return isinstance(value, torch.nn.Parameter)


def parameter(machine: "Machine", data: Any, requires_grad: Any = True) -> Any:
    if not isinstance(data, torch.Tensor):
        machine.refuse("a parameter is made from what is no tensor")
    made = torch.nn.Parameter(data, requires_grad=False)
    machine.meter.track(made)
    return made


def buffer(machine: "Machine", data: Any, *, persistent: Any = True) -> Any:
    if not isinstance(data, torch.Tensor):
        machine.refuse("a buffer is made from what is no tensor")
    return torch.nn.Buffer(data, persistent=bool(persistent))


def _fields_of(machine: "Machine", cls: Class) -> list[tuple[str, bool, Any]]:
    """List (name, whether it has a default, the default) of annotated names, bases
    first."""
    found: dict[str, tuple[bool, Any]] = {}
    for one in reversed(cls.order):
        for name, node in one.fields.items():
            if ast.unparse(node.annotation).startswith(("ClassVar", "typing.ClassVar")):
                continue
            default = cls.find(name)
            if isinstance(default, Instance) and default.cls.name == "Field":
                factory = default.names.get("default_factory")
                own = default.names.get("default")
                default = own if factory is None else machine.call(factory, (), {})
            elif isinstance(default, list | dict | set):
                default = shallow(machine, default)
            found[name] = (
                default is not MISSING,
                None if default is MISSING else default,
            )
    return [(name, *rest) for name, rest in found.items()]


def _has_own_init(machine: "Machine", cls: Class) -> bool:
    """Tell whether a class below the contract has an ``__init__`` of its own."""
    return any("__init__" in one.names and not one.module.contract for one in cls.order)


def dataclass_of(machine: "Machine", cls: Any = None, **options: Any) -> Any:
    """Do ``dataclass``: add an ``__init__`` over the annotated names, where there is
    none."""
    if cls is None:
        return Builtin("dataclass", dataclass_of)
    if isinstance(cls, Class) and cls.find("__init__") is MISSING:
        cls.names["__init__"] = Builtin("__init__", _initialise)
    return cls


def _initialise(machine: "Machine", made: Instance, *given: Any, **named: Any) -> None:
    for at, (name, known, default) in enumerate(_fields_of(machine, made.cls)):
        if at < len(given):
            value = given[at]
        elif name in named:
            value = named.pop(name)
        elif known:
            value = default
        else:
            raise machine.error("TypeError", f"missing a required argument: {name!r}")
        made.names[name] = value
    if named:
        raise machine.error("TypeError", f"unexpected argument {next(iter(named))!r}")
    after = made.cls.find("__post_init__")
    if after is not MISSING:
        machine.call(after, (made,), {})


CONTRACT_ONLY = {
    "fields_of": Builtin("fields_of", _fields_of),
    "has_own_init": Builtin("has_own_init", _has_own_init),
}
