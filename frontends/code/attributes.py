"""Attributes: read and written through tables, never on the host by a text's name."""

from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code import plain, tensors
from glmc.frontends.code.values import (
    MISSING,
    Absent,
    Builtin,
    Class,
    ClassMethod,
    Function,
    HostType,
    Instance,
    Iterator,
    Method,
    Module,
    Namespace,
    Op,
    Opaque,
    Property,
    Static,
    Super,
)

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine


def find(machine: "Machine", value: Any, name: str) -> Any:
    """Return an attribute of any value, or :data:`MISSING`."""
    if isinstance(value, Instance):
        return _instance(machine, value, name)
    if isinstance(value, torch.Tensor):
        return tensors.attribute(machine, value, name)
    if isinstance(value, Module | Namespace):
        return _module(value, name)
    if isinstance(value, Class):
        return _class(machine, value, name)
    if isinstance(value, Super):
        return _super(value, name)
    if isinstance(value, Function | Method):
        return _function(machine, value, name)
    if isinstance(value, Opaque | Absent):
        hidden = name.startswith("__") and name != "__name__"
        return MISSING if hidden else _longer(value, name)
    if isinstance(value, Property):
        return _property(value, name)
    if isinstance(value, HostType):
        return plain.type_attribute(machine, value, name)
    if isinstance(value, Op | Builtin):
        return value.name.rpartition(".")[2] if name == "__name__" else MISSING
    return plain.attribute(machine, value, name)


def _longer(value: Opaque | Absent, name: str) -> Any:
    full = f"{value.name}.{name}"[:200]
    if isinstance(value, Absent):
        return Absent(full, value.reason)
    return Opaque(full)


def _instance(machine: "Machine", value: Instance, name: str) -> Any:
    if value.cls.is_config:
        other = value.cls.find("attribute_map")
        if isinstance(other, dict) and isinstance(other.get(name), str):
            name = other[name]
    found = value.cls.find(name)
    if isinstance(found, Property) and not (found.cached and name in value.names):
        result = machine.call(found.get, (value,), {})
        if found.cached:
            value.names[name] = result
        return result
    if name in value.names:
        found = value.names[name]
    elif found is not MISSING:
        found = _bound(found, value, value.cls)
    elif name in _OBJECT:
        found = _object(value, name)
    else:
        hook = value.cls.find("__getattr__")
        if hook is not MISSING and not name.startswith("__"):
            _note(machine, value, name, True)
            return machine.call(hook, (value, name), {})
    _note(machine, value, name, found is not MISSING)
    return found


def _note(machine: "Machine", value: Instance, name: str, found: bool) -> None:
    """Note that the text, and no contract, reads a key of the config."""
    frame = machine.frames[-1] if machine.frames else None
    if frame is None or frame.module.contract or name.startswith("__"):
        return
    if value.cls.is_config:
        kind = value.cls.find(name)
        if name in value.names or not isinstance(kind, _CALLABLE):
            machine.records.read(name, frame.module.file, frame.line, found)


_CALLABLE = (Function, Static, ClassMethod, Builtin, Method)


def _bound(found: Any, owner: Any, cls: Class) -> Any:
    if isinstance(found, Function | Builtin):
        return Method(found, owner)
    if isinstance(found, Static):
        return found.function
    if isinstance(found, ClassMethod):
        return Method(found.function, cls)
    return found


def _setattr(machine: "Machine", owner: Any, name: str, value: Any) -> None:
    if not isinstance(owner, Instance):
        machine.refuse("object.__setattr__ is used on what is no object of the text")
    owner.names[plain.attribute_name(machine, name)] = value


def _getattribute(machine: "Machine", owner: Any, name: str) -> Any:
    if not isinstance(owner, Instance):
        machine.refuse("object.__getattribute__ is used on no object of the text")
    if name in owner.names:
        return owner.names[name]
    found = owner.cls.find(name)
    if found is MISSING:
        raise machine.error("AttributeError", f"no attribute {name!r}")
    return _bound(found, owner, owner.cls)


def _nothing(machine: "Machine", *given: Any, **named: Any) -> None:
    """Do nothing, as ``object.__init__`` and ``__init_subclass__`` do."""


_RAW = {
    "__init__": Builtin("object.__init__", _nothing),
    "__init_subclass__": Builtin("object.__init_subclass__", _nothing),
    "__post_init__": Builtin("object.__post_init__", _nothing),
    "__setattr__": Builtin("object.__setattr__", _setattr),
    "__getattribute__": Builtin("object.__getattribute__", _getattribute),
    "__getattr__": Builtin("object.__getattr__", _getattribute),
}
_OBJECT = ("__class__", "__dict__", "__doc__", "__init__", "__setattr__")


def _object(value: Instance, name: str) -> Any:
    if name == "__class__":
        return value.cls
    if name == "__dict__":
        return value.names
    return None if name == "__doc__" else Method(_RAW[name], value)


def _module(value: Module | Namespace, name: str) -> Any:
    found = value.names.get(name, MISSING)
    if found is MISSING and isinstance(value, Namespace):
        return MISSING if name.startswith("__") else Absent(f"{value.name}.{name}")
    return found


def _class(machine: "Machine", value: Class, name: str) -> Any:
    if name in ("__name__", "__qualname__"):
        return value.name
    if name == "__module__":
        return value.module.name
    if name == "__doc__":
        return None
    found = value.find(name)
    if found is MISSING:
        return _RAW.get(name, MISSING)
    if isinstance(found, Static):
        return found.function
    if isinstance(found, ClassMethod):
        return Method(found.function, value)
    return found


def _super(value: Super, name: str) -> Any:
    owner = value.owner
    cls = owner if isinstance(owner, Class) else owner.cls
    at = cls.order.index(value.cls)
    for one in cls.order[at + 1 :]:
        if name in one.names:
            found = one.names[name]
            if isinstance(found, Property):
                return MISSING
            return found if isinstance(owner, Class) else _bound(found, owner, cls)
    return Method(_RAW[name], owner) if name in _RAW else MISSING


def _function(machine: "Machine", value: Function | Method, name: str) -> Any:
    if isinstance(value, Method):
        if name == "__self__":
            return value.owner
        return find(machine, value.function, name)
    if name in ("__name__", "__qualname__"):
        return value.name
    if name == "__doc__":
        return None
    return value.attributes.get(name, MISSING)


def _property(value: Property, name: str) -> Any:
    def setter(machine: "Machine", function: Any) -> Property:
        return Property(value.get, function)

    def getter(machine: "Machine", function: Any) -> Property:
        return Property(function, value.set)

    table = {"setter": setter, "getter": getter}
    return Builtin(name, table[name]) if name in table else MISSING


def store(machine: "Machine", value: Any, name: str, new: Any) -> None:
    """Set ``value.name = new``; contracts and tables cannot be changed."""
    if isinstance(value, Instance):
        _store_instance(machine, value, name, new)
    elif isinstance(value, torch.Tensor):
        tensors.store(machine, value, name, new)
    elif isinstance(value, Function):
        protect(machine, value.scope.module, value.name, name)
        _room(machine, value.attributes)
        value.attributes[name] = new
    elif isinstance(value, Class):
        protect(machine, value.module, value.name, name)
        if name.startswith("__"):
            machine.refuse(f"{value.name}.{name} is patched")
        _room(machine, value.names)
        value.names[name] = new
    elif isinstance(value, Module) and not value.contract:
        value.names[name] = new
    elif not isinstance(value, Opaque):
        kind = getattr(value, "name", None) or plain.type_name(value)
        machine.refuse(f"{kind}.{name} is set, and only objects of the text can change")


def protect(machine: "Machine", module: Module, owner: str, name: str) -> None:
    """Refuse a text that changes a contract."""
    if module.contract and not machine.frames[-1].module.contract:
        machine.refuse(f"{owner}.{name} is patched, which is not the text's own")


def _store_instance(machine: "Machine", value: Instance, name: str, new: Any) -> None:
    if name in ("__class__", "__dict__"):
        machine.refuse(f"{name} of an object is replaced")
    found = value.cls.find(name)
    if isinstance(found, Property) and not found.cached:
        if found.set is None:
            raise machine.error("AttributeError", f"{name!r} cannot be set")
        machine.call(found.set, (value, new), {})
        return
    hook = value.cls.find("__setattr__")
    if hook is not MISSING:
        machine.call(hook, (value, name, new), {})
        return
    _room(machine, value.names)
    value.names[name] = new


def remove(machine: "Machine", value: Any, name: str) -> None:
    """Delete ``value.name``."""
    if isinstance(value, Instance) and name in value.names:
        del value.names[name]
    elif isinstance(value, Iterator | Namespace | Class):
        machine.refuse(f"an attribute {name} is deleted")
    else:
        raise machine.error("AttributeError", f"no attribute {name!r} to delete")


def _room(machine: "Machine", names: dict[str, Any]) -> None:
    if len(names) >= machine.limits.items:
        machine.meter.items(len(names) + 1)
