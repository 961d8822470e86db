"""The shapes that recipes give, known before any tensor is read."""

import math
from collections.abc import Callable

from .recipes import (
    Cat,
    Permute,
    Quantized,
    Recipe,
    Repacked,
    Shape,
    Slice,
    Stack,
    Tensor,
    View,
)
from .storage import LOOSE, fits


def shape_of(recipe: Recipe, shape: Callable[[str], Shape]) -> Shape:
    """Returns the shape a recipe gives, with `shape(name)` that of a tensor.

    Raises ValueError with the reason where a step does not fit its source.
    """
    match recipe:
        case str():
            return shape(recipe)
        case Tensor(name, needed):
            if shape(name) != needed:
                raise ValueError(f"{list(shape(name))}, {list(needed)} is needed")
            return needed
        case Cat(parts, dim):
            return _cat_shape([shape_of(part, shape) for part in parts], dim)
        case Slice(of, dim, start, stop):
            return _slice_shape(shape_of(of, shape), dim, start, stop)
        case View(of, new):
            old = shape_of(of, shape)
            if math.prod(old) != math.prod(new):
                raise ValueError(f"{list(old)} cannot be viewed as {list(new)}")
            return new
        case Permute(of, dims):
            old = shape_of(of, shape)
            if sorted(dims) != list(range(len(old))):
                raise ValueError(f"{list(old)} cannot be permuted by {dims}")
            return tuple(old[dim] for dim in dims)
        case Stack(parts):
            return _stack_shape([shape_of(part, shape) for part in parts])
        case Quantized():
            for field, part in recipe.parts().items():
                found = shape(part.name)
                loose = field in LOOSE and fits(found, part.shape)
                if found != part.shape and not loose:
                    told = f"{list(found)}, {list(part.shape)} is needed"
                    raise ValueError(f"{part.name} is {told}")
            return recipe.shape()
        case Repacked(of, part):
            shape_of(of, shape)
            return of.kept_shape(part)


def _cat_shape(parts: list[Shape], dim: int) -> Shape:
    first = parts[0]
    if dim >= len(first) or any(
        len(part) != len(first)
        or part[:dim] + part[dim + 1 :] != first[:dim] + first[dim + 1 :]
        for part in parts
    ):
        listed = ", ".join(str(list(part)) for part in parts)
        raise ValueError(f"{listed} do not fit together along dimension {dim}")
    return (*first[:dim], sum(part[dim] for part in parts), *first[dim + 1 :])


def _stack_shape(shapes: list[Shape]) -> Shape:
    first = shapes[0]
    for other in shapes:
        if other != first:
            raise ValueError(f"{list(first)} and {list(other)} cannot be stacked")
    return (len(shapes), *first)


def _slice_shape(old: Shape, dim: int, start: int, stop: int) -> Shape:
    if dim >= len(old) or not 0 <= start < stop <= old[dim]:
        raise ValueError(f"{list(old)} has no {start}:{stop} in dimension {dim}")
    return (*old[:dim], stop - start, *old[dim + 1 :])
