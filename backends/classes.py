"""Group the blocks of a program into classes of the emitted module.

Blocks that read and make the same values with the same ops and parameters, and differ
in attributes of ops only, are one class: what differs is an argument of its
``__init__``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from glmc.backends.emit import class_name, own_dtypes
from glmc.backends.taken import ATTRIBUTES, CLASSES
from glmc.ir.graph import Graph, Program

Site = tuple[int, str]
"""An attribute of an op: the op's place in its block, and the field."""


@dataclass(frozen=True)
class LayerClass:
    """A class of layers.

    name       what it is called
    blocks     the blocks that are instances of it
    arguments  the attributes that differ among them, and the argument that gives each
    """

    name: str
    blocks: tuple[Graph, ...]
    arguments: Mapping[Site, str] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of all its blocks, in order."""
        return tuple(sorted(chain.from_iterable(b.layers for b in self.blocks)))

    def given(self, block: Graph) -> dict[str, Any]:
        """Return the arguments that make a layer of one of its blocks."""
        return {
            name: getattr(block.ops[at], attribute)
            for (at, attribute), name in self.arguments.items()
        }


def layer_classes(program: Program) -> list[LayerClass]:
    """Return the classes of a program's layers, in the order of their first blocks."""
    groups: list[list[Graph]] = []
    forms: list[Any] = []
    for block in program.blocks:
        form = _form(block)
        if form in forms:
            groups[forms.index(form)].append(block)
        else:
            forms.append(form)
            groups.append([block])
    return list(_named(program, groups))


def _form(block: Graph) -> Any:
    """Return all that blocks of one class have in common."""
    return (
        block.inputs,
        [(param.name, param.type) for param in block.params],
        block.returns,
        own_dtypes(block.params, [block]),
        [(type(op), op.results, list(op.operands())) for op in block.ops],
        [(state.name, state.type, bool(state.owners)) for state in block.states],
    )


def _named(program: Program, groups: list[list[Graph]]) -> Iterator[LayerClass]:
    alone = {class_name(blocks[0]) for blocks in groups if len(blocks) == 1}
    used = {*CLASSES, *alone, *(block.name for block in program.blocks)}
    for blocks in groups:
        arguments = _arguments(blocks)
        if len(blocks) == 1 or arguments is None:
            yield from (LayerClass(class_name(block), (block,)) for block in blocks)
            continue
        common = _common_name(blocks)
        name = class_name(blocks[0]) if common in used or not common else common
        used.add(name)
        yield LayerClass(name, tuple(blocks), arguments)


def _common_name(blocks: list[Graph]) -> str:
    """Return the common words of the blocks' names:
    ``sliding_layer`` and ``full_layer`` are both a ``Layer``."""
    rest = [block.name.split("_") for block in blocks[1:]]
    words = blocks[0].name.split("_")
    common = [word for word in words if all(word in other for other in rest)]
    return "".join(word.capitalize() for word in common if not word.isdigit())


def _arguments(blocks: list[Graph]) -> dict[Site, str] | None:
    """Name an argument for each attribute that differs; attributes of one name that are
    alike in every block share it. None where no name is left for one."""
    values: dict[Site, tuple[Any, ...]] = {}
    for at, op in enumerate(blocks[0].ops):
        for attribute in op.attribute_fields():
            each = tuple(getattr(block.ops[at], attribute) for block in blocks)
            if any(value != each[0] for value in each):
                values[at, attribute] = each
    used = {*ATTRIBUTES, *(param.name for param in blocks[0].params)}
    found: dict[Site, str] = {}
    for site, each in values.items():
        at, attribute = site
        same = [s for s in found if s[1] == attribute and values[s] == each]
        names = [attribute, f"{blocks[0].ops[at].outs[0]}_{attribute}"]
        free = [found[same[0]]] if same else [n for n in names if n not in used]
        if not free:
            return None
        found[site] = free[0]
        used.add(free[0])
    return found
