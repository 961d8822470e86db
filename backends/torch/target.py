"""The target of CPUs: torch computes, with the fusions that save it work.

One product in the place of several reads its operand once. To add a sum or a norm to a
product, or to hand both halves of a sum to the next layer, saves launches, which a CPU
has none of: torch would compute the same, with an op more.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from glmc.backends.ledger import Place
from glmc.backends.target import Target
from glmc.ir.graph import Program

if TYPE_CHECKING:
    from glmc.ir.passes import Pass

_BY_DESIGN = Place("torch", "a build for CPUs computes with torch's own products")


def _passes() -> "tuple[Pass, ...]":
    from glmc.backends.packing import unfit
    from glmc.ir.passes import general

    return general(unfit)


def _place(program: Program, own: Collection[str]) -> Sequence[Place]:
    return [_BY_DESIGN for graph in program.graphs for _ in graph.ops]


CPU = Target(
    name="cpu",
    doc="CPUs, by torch.",
    machine="a CPU",
    passes=_passes,
    place=_place,
    usual=lambda _: _BY_DESIGN,
    files=lambda program, own: {},
    operations={"cpu": "reference"},
    unit="call",
    units="calls",
)
