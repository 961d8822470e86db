"""The values that a text's names can have, besides plain values and tensors."""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine


CONFIG = "PretrainedConfig"
"""The contract whose attributes are keys of config.json."""


@dataclass(eq=False)
class Scope:
    """The names of a module, a class body, a function or a comprehension."""

    module: "Module"
    kind: str
    """``module``, ``class``, ``function`` or ``comprehension``."""
    names: dict[str, Any]
    parent: "Scope | None" = None
    function: "Function | None" = None
    elsewhere: dict[str, "Scope"] = field(default_factory=dict)
    """Names declared ``global`` or ``nonlocal``, and where they live."""
    owner: "Class | None" = None
    """The class whose body this is."""


@dataclass(eq=False)
class Module:
    """A file that was read, or a contract."""

    name: str
    file: str
    names: dict[str, Any] = field(default_factory=dict)
    contract: bool = False
    package: str = ""


@dataclass(eq=False)
class Function:
    """A function of a text, with the scope it was made in."""

    name: str
    node: ast.FunctionDef | ast.Lambda
    scope: Scope
    defaults: Sequence[Any]
    keyword_defaults: Sequence[Any]
    owner: "Class | None" = None
    """The class whose body it stands in; what ``super()`` starts from."""
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Method:
    """A callable with its first argument."""

    function: Any
    owner: Any


@dataclass(eq=False)
class Class:
    """A class of a text."""

    name: str
    bases: tuple["Class", ...]
    names: dict[str, Any]
    module: Module
    line: int = 0
    fields: dict[str, ast.AnnAssign] = field(default_factory=dict)
    """Annotated names of the body, in order."""
    order: tuple["Class", ...] = ()
    """The method resolution order, itself first."""
    reason: str = ""
    """The reason why no instance can be made, where one of its bases has no table."""

    def find(self, name: str) -> Any:
        """Find an attribute in the class bodies; :data:`MISSING` where none has it."""
        for cls in self.order:
            if name in cls.names:
                return cls.names[name]
        return MISSING

    @cached_property
    def is_config(self) -> bool:
        """True if its attributes are keys of config.json."""
        return any(cls.module.contract and cls.name == CONFIG for cls in self.order)

    def derives(self, other: "Class") -> bool:
        """Tell whether it is that class or one below it."""
        return other in self.order


@dataclass(eq=False)
class Instance:
    """An object of a class of a text."""

    cls: Class
    names: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Builtin:
    """A function of a table. ``run`` gets the machine before the arguments."""

    name: str
    run: Callable[..., Any]


@dataclass(frozen=True)
class Op:
    """A torch function of a table, with what it costs."""

    name: str
    run: Callable[..., Any]
    cost: Callable[..., tuple[int, int]]
    """(elements written, elements touched), from the arguments alone."""


@dataclass(frozen=True)
class HostType:
    """A type of plain values: what ``isinstance`` compares with, and what it makes."""

    name: str
    types: tuple[type, ...]
    make: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Namespace:
    """A module of a table, such as ``torch.nn.functional``."""

    name: str
    names: dict[str, Any]


@dataclass(frozen=True)
class Absent:
    """A name that no table has. It may be passed around; using it is refused."""

    name: str
    reason: str = "no table of the reader has it"


@dataclass(frozen=True)
class Opaque:
    """Something without a meaning for what is computed: types, loggers, contexts.

    Calling it, subscripting it and reading an attribute give another; as a decorator it
    changes nothing.
    """

    name: str


@dataclass(eq=False)
class Property:
    """A property, or what else is computed when an attribute is read."""

    get: Any
    set: Any = None
    cached: bool = False


@dataclass(frozen=True)
class Static:
    """``staticmethod``."""

    function: Any


@dataclass(frozen=True)
class ClassMethod:
    """``classmethod``."""

    function: Any


@dataclass(eq=False)
class Super:
    """``super()``: attributes of what stands behind ``cls`` in the order."""

    cls: Class
    owner: Any


@dataclass(eq=False)
class Iterator:
    """The result of ``iter``: members and a place among them."""

    members: Any


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


class Raised(Exception):
    """An exception of the text on its way to an ``except`` of the text."""

    def __init__(self, value: Instance, place: str) -> None:
        super().__init__(value.cls.name)
        self.value = value
        self.place = place


class Returned:
    """The result of a function, on its way out of the body."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


Evaluate = Callable[["Machine", Any, Scope], Any]


def linearised(name: str, bases: tuple[Class, ...]) -> tuple[Class, ...] | None:
    """Return the bases in method resolution order (C3); None where there is no such
    order."""
    rows = [list(base.order) for base in bases] + [list(bases)]
    found: list[Class] = []
    while rows := [row for row in rows if row]:
        for row in rows:
            if not any(row[0] in other[1:] for other in rows):
                head = row[0]
                break
        else:
            return None
        found.append(head)
        rows = [row[1:] if row[0] is head else row for row in rows]
    return tuple(found)
