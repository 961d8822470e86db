"""Derive the fields of a spec's section from the Model node that it becomes.

A section is the node with expressions allowed. What a spec writes otherwise than the
node holds it is said by :class:`Makes`: a section's class has fields of its own only
where a spec says something that the node has no field for.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import get_annotations
from typing import Annotated, Any, Literal

from glmc.frontends.language.kinds import CHOICE, Flag, Integer, List, Number, Text
from glmc.frontends.language.resolver import SPELLINGS
from glmc.frontends.language.wanted import Wanted, fields_of
from glmc.ir.model import Projection, Weight
from glmc.ir.node import Node

IN_SLOTS = (Weight, Projection)
_PLAIN: Mapping[type, Any] = {int: Integer, float: Number, bool: Flag, str: Text}


@dataclass(frozen=True)
class Slot:
    """The slot of ``weights`` in which a weight or a projection of a node is found.

    Without conditions a slot whose field is optional may have no entry.
    """

    name: str
    when: str | None = None
    """A flag of the section; false: there is none, true: there must be an entry."""
    unless_null: str | None = None
    """A field of the section; null: there is none."""
    bias: bool = False
    """True where it is the slot's bias."""


@dataclass(frozen=True)
class Makes:
    """The node that a section becomes, and how their fields correspond. What is not
    said here, a section spells as the node does.

    Weights and projections are no fields of a section: they lie in the slot of their
    own name, unless ``slots`` says in which.
    """

    node: type[Node]
    slots: Mapping[str, Slot | str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Fields of the node to what they are called in a spec."""
    left: Collection[str] = ()
    """Fields of the node that code gives, from what else the section says."""
    only: Collection[str] | None = None
    """The fields that a section gives of a node which others of it give, too."""
    norms: str | None = None
    """The field that says what the node's norms are; None: the spec's ``norm``."""
    partial: bool = False
    """True where every field may be left out: such a section changes another one."""

    def slot(self, name: str) -> Slot:
        """Return the slot of a weight."""
        found = self.slots.get(name, name)
        return found if isinstance(found, Slot) else Slot(found)

    @cached_property
    def fields(self) -> dict[str, Wanted]:
        """The node's fields that the section gives, with what they hold."""
        every = fields_of(self.node)
        names = [name for name in self.only or every if name not in self.left]
        return {name: every[name] for name in names}

    def key(self, name: str) -> str:
        """Return the name in a spec of a field of the node."""
        return self.renamed.get(name, name)


SECTIONS: dict[type[Node], Any] = {}
"""The section of each class of nodes, for the fields of others that hold one."""


def derive(cls: type[Any], makes: tuple[Makes, ...]) -> None:
    """Give a class that pydantic is about to read the fields that it derives.

    What its body says of a field goes before what is derived.
    """
    own = get_annotations(cls)
    fields: dict[str, Any] = {}
    for one in makes:
        for name, what in one.fields.items():
            if what.kind in IN_SLOTS:
                continue
            key = one.key(name)
            fields[key] = own.get(key) or _annotation(cls, one, name, what)
            given = one.node.model_fields[name]
            tag = len(what.choices) == 1
            if key not in own and not tag and (one.partial or not given.is_required()):
                setattr(cls, key, None if one.partial else given.default)
    # `kind` and what else the node has come first, in the node's order.
    more = {key: kind for key, kind in own.items() if key not in fields}
    cls.__annotations__ = fields | more


def _annotation(cls: type[Any], makes: Makes, name: str, what: Wanted) -> Any:
    kind: Any = SECTIONS.get(what.kind) or _PLAIN.get(what.kind)
    if what.kind is Literal:
        choices: Any = Literal.__getitem__(what.choices)
        if len(what.choices) == 1:
            return choices
        kind = Text if what.choices in SPELLINGS else Annotated[choices, CHOICE]
    if kind is None:
        node = f"{makes.node.__name__}.{name}"
        raise TypeError(
            f"{cls.__name__} cannot derive what a spec says of {node}: there is no"
            f" section of {what.kind}; write the field in the class, or leave it out"
        )
    if what.many:
        kind = List if what.kind in _PLAIN else tuple[kind, ...]
    nullable = what.optional or makes.partial or name == cls.null
    return kind | None if nullable else kind
