"""The shapes that recipes give, known before any tensor is read."""

from collections.abc import Callable

from .recipes import Cat, Quantized, Recipe, Repacked, Shape, Stack, Step, Tensor
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
        case Step(of):
            return recipe.shape(shape_of(of, shape))
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
