"""Say what a recipe does to a stack of matrices by steps on whole rows, if it is that.

gpt-oss publishes its experts' rows as columns, every second one of another matrix. What
views, slices and permutations make of them may still be whole rows in another order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glmc.ir.leaves import DequantFloats
from glmc.ir.recipe import Cat, Permute, Recipe, Slice, View, cat, permute, slice_, view


@dataclass(frozen=True)
class Part:
    """A part of a dimension of the leaf: its place among them all, its size there, and
    what is cut out of it."""

    place: tuple[int, ...]
    whole: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """The size that is left."""
        return self.stop - self.start

    @property
    def cut(self) -> bool:
        """True where something was cut off."""
        return self.size < self.whole


Dims = list[list[Part]]
"""The parts of each dimension, from the slowest to the fastest."""


def straightened(recipe: Recipe) -> Recipe:
    """Return an equal recipe whose steps leave the rows of its stack of small floats
    whole; the same one where there is none."""
    if isinstance(recipe, Cat):
        return cat([straightened(part) for part in recipe.parts], recipe.dim)
    steps: list[Recipe] = []
    leaf: Recipe = recipe
    while isinstance(leaf, View | Permute | Slice):
        steps.insert(0, leaf)
        leaf = leaf.of
    if not steps or not isinstance(leaf, DequantFloats) or len(leaf.shape) != 3:
        return recipe
    dims: Dims | None = [
        [Part((dim,), size, 0, size)] for dim, size in enumerate(leaf.shape)
    ]
    for step in steps:
        dims = None if dims is None else _after(step, dims)
    if dims is None:
        return recipe
    return _again(leaf, dims, recipe.shape) or recipe


def _after(step: Recipe, dims: Dims) -> Dims | None:
    """Return the parts after a step; None where it is not seen through."""
    match step:
        case Permute(dims=order):
            return [dims[dim] for dim in order]
        case Slice(dim=dim, start=start, stop=stop):
            if len(dims[dim]) != 1:
                return None
            (one,) = dims[dim]
            left = Part(one.place, one.whole, one.start + start, one.start + stop)
            return [*dims[:dim], [left], *dims[dim + 1 :]]
        case View(to=to):
            return _regrouped([part for parts in dims for part in parts], to)
    return None


def _regrouped(parts: Sequence[Part], to: Sequence[int]) -> Dims | None:
    """Deal parts to dimensions of other sizes; a part that was not cut may be split."""
    waiting = list(parts)
    made: Dims = []
    for size in to:
        group: list[Part] = []
        while math.prod(part.size for part in group) < size:
            part = waiting.pop(0)
            need = size // math.prod(one.size for one in group)
            if part.size <= need:
                group.append(part)
                continue
            if part.cut or part.size % need:
                return None
            rest = part.size // need
            group.append(Part((*part.place, 0), need, 0, need))
            waiting.insert(0, Part((*part.place, 1), rest, 0, rest))
        while waiting and waiting[0].size == 1 and size == 1 and not group:
            group.append(waiting.pop(0))
        if math.prod(part.size for part in group) != size:
            return None
        made.append(group)
    if made:
        made[-1] += waiting  # all of size 1
    return made


def _again(leaf: Recipe, dims: Dims, shape: Sequence[int]) -> Recipe | None:
    """Write the parts as steps on a leaf; None where its last dimension does not stay
    whole and last."""
    columns = [part for part in dims[-1] if part.size > 1]
    if [part.place for part in columns] != [(2,)] or columns[0].cut:
        return None
    order = [part for parts in dims for part in parts if part.place != (2,)]
    stored = sorted(order, key=lambda part: part.place)
    made = view(leaf, (*(part.whole for part in stored), leaf.shape[-1]))
    for dim, part in enumerate(stored):
        made = slice_(made, dim, part.start, part.stop)
    made = permute(made, (*(stored.index(part) for part in order), len(stored)))
    return view(made, shape)
