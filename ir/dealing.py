"""Recipes of one rank's part: how weights are dealt to ranks, and what a recipe says of
where its tensor lies."""

import math
from collections.abc import Iterator

from glmc.ir.leaves import Quantized, Tensor
from glmc.ir.placement import PARTIAL, REPLICATED, Placement, is_shard, shard
from glmc.ir.recipe import (
    Cat,
    OnFirst,
    Permute,
    Recipe,
    Shard,
    Slice,
    Stack,
    View,
    permute,
    slice_,
)


def deal(of: Recipe, dim: int, ranks: int, copies: int = 1) -> Recipe:
    """Return one rank's part of a dimension, cut as near to the stored tensors as can
    be, so that a rank reads its own part of them."""
    match of:
        case Cat(parts=parts, dim=joined) if joined != dim:
            return Cat(
                parts=tuple(deal(p, dim, ranks, copies) for p in parts), dim=joined
            )
        case Stack(of=inner, count=count) if dim > 0:
            return Stack(of=deal(inner, dim - 1, ranks, copies), count=count)
        case Permute(of=inner, dims=dims):
            return permute(deal(inner, dims[dim], ranks, copies), dims)
        case Slice(of=inner, dim=cut, start=start, stop=stop) if cut != dim:
            return slice_(deal(inner, dim, ranks, copies), cut, start, stop)
    return Shard(of=of, dim=dim, ranks=ranks, copies=copies)


def stretch(of: Recipe, dim: int, at: int, parts: int) -> Recipe:
    """Return one of so many equal stretches of a dimension."""
    if parts == 1:
        return of
    match of:
        case Cat(parts=inner, dim=joined) if joined == dim and len(inner) == parts:
            if len({part.shape for part in inner}) == 1:
                return inner[at]
        case Stack(of=inner, count=count) if dim > 0:
            return Stack(of=stretch(inner, dim - 1, at, parts), count=count)
    size = of.shape[dim] // parts
    return slice_(of, dim, at * size, (at + 1) * size)


def grain(recipe: Recipe, dim: int) -> int:
    """Return the number whose multiples a dimension may be cut into: codes are cut at
    whole integers, and at whole groups or blocks that have a scale."""
    match recipe:
        case Permute(of=of, dims=dims):
            return grain(of, dims[dim])
        case Cat(parts=parts):
            return math.lcm(*(grain(part, dim) for part in parts))
        case Stack(of=of):
            return grain(of, dim - 1) if dim else 1
        case Slice(of=of):
            return grain(of, dim)
        case Quantized():
            last = dim == len(recipe.shape) - 1
            return recipe.grain(last) if dim >= len(recipe.shape) - 2 else 1
    return 1


def placement_of(recipe: Recipe) -> Placement:
    """Return where the tensor lies that a recipe assembles on each rank.

    Raises:
        ValueError: where parts of it lie otherwise than others, or what a rank has is
            no part along one dimension.
    """
    match recipe:
        case Tensor() | Quantized():
            return REPLICATED
        case Shard(of=of, dim=dim):
            if placement_of(of) != REPLICATED:
                raise ValueError("a part of a part")
            return shard(dim)
        case OnFirst():
            return PARTIAL
        case Cat(parts=parts):
            found = {placement_of(part) for part in parts}
            if len(found) > 1:
                raise ValueError(f"parts that are {' and '.join(map(str, found))}")
            return found.pop()
    inner = placement_of(recipe.of)
    if not is_shard(inner):
        return inner
    match recipe:
        case Permute(dims=dims):
            return shard(dims.index(inner.axis))
        case Stack():
            return shard(inner.axis + 1)
        case View():
            raise ValueError("a view of a part")
    return inner


def shards(recipe: Recipe) -> Iterator[Shard]:
    """Yield the steps of a recipe that deal something to ranks."""
    match recipe:
        case Tensor() | Quantized():
            return
        case Cat(parts=parts):
            for part in parts:
                yield from shards(part)
            return
        case Shard():
            yield recipe
    yield from shards(recipe.of)


def unplaced(recipe: Recipe) -> Recipe:
    """Return what the parts of all ranks together assemble."""
    match recipe:
        case Tensor() | Quantized():
            return recipe
        case Shard(of=of) | OnFirst(of=of):
            return unplaced(of)
        case Cat(parts=parts):
            return Cat(parts=tuple(map(unplaced, parts)), dim=recipe.dim)
    return recipe.model_copy(update={"of": unplaced(recipe.of)})
