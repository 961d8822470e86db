"""Recipes of builds for several ranks: the parts that ranks have of a parameter.

One table serves all ranks; `of_rank` makes of its recipes those of one.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .recipes import Cat, Quantized, Recipe, Repacked, Shape, Slice, Stack, Step

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Shard(Step):
    """This rank's part of dimension `dim`: `size` of the `whole`, those after the parts
    of the ranks before. `copies` ranks after one another have the same part, and the
    last ranks zeros for what is beyond the whole."""

    dim: int
    size: int
    whole: int
    copies: int

    def shape(self, old: Shape) -> Shape:
        if self.dim >= len(old) or old[self.dim] != self.whole:
            raise ValueError(f"{list(old)} has not {self.whole} in {self.dim}")
        return (*old[: self.dim], self.size, *old[self.dim + 1 :])


@dataclass(frozen=True)
class OnFirst(Step):
    """The operand on the first rank, zeros on the others: what ranks add up."""

    def shape(self, old: Shape) -> Shape:
        return old


@dataclass(frozen=True)
class Padded(Step):
    """The operand, and zeros up to `size` in dimension `dim`."""

    dim: int
    size: int

    def shape(self, old: Shape) -> Shape:
        return (*old[: self.dim], self.size, *old[self.dim + 1 :])

    def taken(self, whole: "torch.Tensor") -> "torch.Tensor":
        padded = whole.new_zeros(self.shape(tuple(whole.shape)))
        padded.narrow(self.dim, 0, whole.shape[self.dim]).copy_(whole)
        return padded


@dataclass(frozen=True)
class Zeros(Step):
    """Zeros in the shape of the operand."""

    def shape(self, old: Shape) -> Shape:
        return old

    def taken(self, whole: "torch.Tensor") -> "torch.Tensor":
        return whole.new_zeros(whole.shape)


@dataclass(frozen=True)
class Columns(Step):
    """Columns `start .. stop` of a `part` of the quantised `weight`."""

    weight: Quantized
    part: str
    start: int
    stop: int

    def shape(self, old: Shape) -> Shape:
        return (old[0], self.stop - self.start)

    def taken(self, whole: "torch.Tensor") -> "torch.Tensor":
        columns = slice(self.start, self.stop)
        return self.weight.kept_columns(self.part, whole, columns)


def shard(of: Recipe, dim: int, size: int, whole: int, copies: int = 1) -> Shard:
    """Takes this rank's part of dimension `dim`."""
    return Shard(of, dim, size, whole, copies)


def on_first(of: Recipe) -> OnFirst:
    """Leaves it to the first rank to add `of`."""
    return OnFirst(of)


def of_rank(recipe: Recipe, rank: int) -> Recipe:
    """Returns the recipe of what one rank has."""
    match recipe:
        case Shard(of, dim, size, whole, copies):
            begin = rank // copies * size
            end = min(begin + size, whole)
            part = _part(of_rank(of, rank), dim, begin, end)
            return part if end - begin == size else Padded(part, dim, size)
        case OnFirst(of):
            inner = of_rank(of, rank)
            return inner if rank == 0 else Zeros(inner)
        case Cat(parts):
            return replace(recipe, parts=tuple(of_rank(p, rank) for p in parts))
        case Stack(parts):
            return Stack(tuple(of_rank(part, rank) for part in parts))
        case Step(of):
            return replace(recipe, of=of_rank(of, rank))
    return recipe


def _part(of: Recipe, dim: int, begin: int, end: int) -> Recipe:
    """Cuts a recipe; of a stack whole parts are taken."""
    if isinstance(of, Stack) and dim == 0:
        return Stack(of.parts[begin:end])
    if isinstance(of, Repacked) and dim == 1:
        return Columns(of, of.of, of.part, begin, end)
    return Slice(of, dim, begin, end)
