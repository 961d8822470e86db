"""Read what the fields of a Model's node hold from their annotations."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from glmc.ir.node import Node

Bound = tuple[str, float]
"""The name of a bound in annotations, and the limit: ``("gt", 0)``."""

_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "gt": ("above", operator.gt),
    "ge": ("of at least", operator.ge),
    "lt": ("below", operator.lt),
    "le": ("of at most", operator.le),
}
_COUNTS: dict[tuple[Bound, ...], str] = {
    (("gt", 0),): "a positive whole number",
    (("ge", 0),): "a non-negative whole number",
    (): "a whole number",
}


@dataclass(frozen=True)
class Wanted:
    """The values a field holds: ``PositiveInt | None`` is an int above 0, optional."""

    kind: Any
    """int, float, bool, str, ``Literal`` or a class of nodes."""
    optional: bool = False
    """True where None is a value of it."""
    many: bool = False
    """True where it is a tuple of these."""
    choices: tuple[object, ...] = ()
    """The values of a ``Literal``."""
    bounds: tuple[Bound, ...] = ()

    @property
    def words(self) -> str:
        """A number in words: ``a positive whole number``, ``a number above 0``."""
        if self.kind is int and self.bounds in _COUNTS:
            return _COUNTS[self.bounds]
        plain = "a whole number" if self.kind is int else "a number"
        limits = [f"{_BOUNDS[name][0]} {limit}" for name, limit in self.bounds]
        return f"{plain} {' and '.join(limits)}".rstrip()

    def allows(self, value: float) -> bool:
        """Tell whether a number keeps the bounds."""
        return all(_BOUNDS[name][1](value, limit) for name, limit in self.bounds)


@cache
def fields_of(node: type[Node]) -> dict[str, Wanted]:
    """Map field names to what they hold.

    Of a union it is the first member: that is what a spec writes down. The others are
    what code makes of it, such as a factor for each layer of a block.
    """
    return {
        name: wanted(field.annotation, tuple(field.metadata))
        for name, field in node.model_fields.items()
    }


def wanted(annotation: Any, metadata: tuple[Any, ...] = ()) -> Wanted:
    """Read an annotation."""
    if isinstance(annotation, type) and not metadata:
        return Wanted(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return wanted(arguments[0], (*arguments[1:], *metadata))
    if origin in (Union, UnionType):
        inner = [one for one in arguments if one is not NoneType]
        first = wanted(inner[0], metadata)
        return replace(first, optional=len(inner) < len(arguments))
    if origin is tuple:
        return replace(wanted(arguments[0], metadata), many=True)
    if origin is Literal:
        return Wanted(Literal, choices=arguments)
    # An inner `Field(ge=2)` holds its marks.
    marks = [one for mark in metadata for one in getattr(mark, "metadata", [mark])]
    limits = [
        (n, getattr(mark, n)) for mark in marks for n in _BOUNDS if hasattr(mark, n)
    ]
    return Wanted(annotation, bounds=tuple(limits))
