"""Placements: where a tensor lies when several ranks compute one model together.

A type says of its tensor ``replicated`` (every rank has it whole, the same; nothing is
written), ``shard(2)`` (every rank has its part of dimension 2, one after the other in
the order of the ranks) or ``partial`` (every rank has a summand). The sizes of a type
are those of one rank.
"""

from typing import Literal

from glmc.ir.node import Node


class Placement(Node):
    """The placement of a tensor; ``axis`` counts only where it is a shard."""

    kind: Literal["replicated", "shard", "partial"] = "replicated"
    axis: int = 0

    def __str__(self) -> str:
        return f"shard({self.axis})" if self.kind == "shard" else self.kind

    @property
    def suffix(self) -> str:
        """The end of a type in text: nothing for a replicated one."""
        return "" if self == REPLICATED else f" {self}"


REPLICATED = Placement()
PARTIAL = Placement(kind="partial")


def shard(axis: int) -> Placement:
    """Return the placement of a tensor that is dealt out along a dimension."""
    return Placement(kind="shard", axis=axis)


def is_shard(placement: Placement) -> bool:
    """Tell whether ranks have parts of a tensor."""
    return placement.kind == "shard"


class Cut(Node):
    """A dimension along which a parameter may be dealt to ranks.

    ``units`` are what stays whole (heads, experts, channels), ``parts`` how many
    stretches of that many stand in the dimension one after the other, each of which is
    dealt for itself. Where there are fewer units than ranks, ``repeats`` lets several
    ranks have the same one; where they do not divide, ``pads`` lets the last ranks have
    less, and zeros.
    """

    what: str
    dim: int
    units: int
    parts: int = 1
    repeats: bool = False
    pads: bool = False

    def __str__(self) -> str:
        more = f", parts={self.parts}" if self.parts != 1 else ""
        more += ", repeats" if self.repeats else ""
        more += ", pads" if self.pads else ""
        return f"cut({self.what}, {self.dim}, {self.units}{more})"


def dealt(units: int, ranks: int, *, repeats: bool = False, pads: bool = False) -> int:
    """Return how many units a rank has; 0 where they cannot be dealt."""
    if units % ranks == 0:
        return units // ranks
    if repeats and ranks % units == 0:
        return 1
    each = -(-units // ranks)
    return each if pads and each * (ranks - 1) < units else 0
