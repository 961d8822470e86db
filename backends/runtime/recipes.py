"""How parameters are made of checkpoint tensors, as data.

A recipe is the name of a tensor, alone or with its shape as `tensor(name, *shape)`, or
`cat`, `slice_`, `view`, `permute` or `stack` of recipes. `{i}` in a name stands for the
layer, `{x}` for the index within a stack.
This module needs no torch: a checkpoint can be checked from its headers alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """A tensor of the checkpoint that must have this shape."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Cat:
    """The parts one after the other along `dim`."""

    parts: "tuple[Recipe, ...]"
    dim: int


@dataclass(frozen=True)
class Slice:
    """`start .. stop` of dimension `dim`."""

    of: "Recipe"
    dim: int
    start: int
    stop: int


@dataclass(frozen=True)
class View:
    """The same elements in another shape."""

    of: "Recipe"
    shape: Shape


@dataclass(frozen=True)
class Permute:
    """The dimensions in another order."""

    of: "Recipe"
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    """`of` with `{x}` in its names counting up to `count`, in a new first dimension."""

    of: "Recipe"
    count: int

    def each(self) -> "Iterator[Recipe]":
        """The recipes that are stacked."""
        for x in range(self.count):
            yield renamed(self.of, partial(_with_index, x=x))


Recipe: TypeAlias = str | Tensor | Cat | Slice | View | Permute | Stack


@dataclass(frozen=True)
class Bind:
    """One parameter, or with `layers` one in each of them, and what it is made of.

    `dtype` is for parameters that keep their own, whatever the model is loaded in.
    """

    path: str
    recipe: Recipe
    shape: Shape
    layers: Sequence[int] | None = None
    dtype: str | None = None

    def each(self) -> "Iterator[Bind]":
        """One Bind a parameter, with the layer put in place of `{i}`."""
        if self.layers is None:
            yield self
            return
        for i in self.layers:
            here = partial(_at_layer, i=i)
            recipe = renamed(self.recipe, here)
            yield Bind(here(self.path), recipe, self.shape, dtype=self.dtype)


def tensor(name: str, *shape: int) -> Tensor:
    """The tensor `name`, refused where it has another shape."""
    return Tensor(name, shape)


def cat(*parts: Recipe, dim: int = 0) -> Cat:
    """The parts one after the other along `dim`."""
    return Cat(parts, dim)


def slice_(of: Recipe, dim: int, start: int, stop: int) -> Slice:
    """`start .. stop` of dimension `dim`."""
    return Slice(of, dim, start, stop)


def view(of: Recipe, *shape: int) -> View:
    """The same elements as `shape`."""
    return View(of, shape)


def permute(of: Recipe, *dims: int) -> Permute:
    """Dimension i of the result is dimension `dims[i]` of the source."""
    return Permute(of, dims)


def stack(of: Recipe, count: int) -> Stack:
    """One of `of` for each index `{x}` below `count`, stacked."""
    return Stack(of, count)


def names(recipe: Recipe) -> Iterator[str]:
    """The checkpoint tensors a recipe reads."""
    match recipe:
        case str():
            yield recipe
        case Tensor(name, _):
            yield name
        case Cat(parts, _):
            for part in parts:
                yield from names(part)
        case Slice(of, _, _, _) | View(of, _) | Permute(of, _):
            yield from names(of)
        case Stack(of, count):
            for name in names(of):
                yield from (_with_index(name, x) for x in range(count))


def renamed(recipe: Recipe, rename: Callable[[str], str]) -> Recipe:
    """The recipe with every tensor name passed through `rename`."""
    match recipe:
        case str():
            return rename(recipe)
        case Tensor(name, shape):
            return Tensor(rename(name), shape)
        case Cat(parts, dim):
            return Cat(tuple(renamed(part, rename) for part in parts), dim)
        case Slice(of, dim, start, stop):
            return Slice(renamed(of, rename), dim, start, stop)
        case View(of, shape):
            return View(renamed(of, rename), shape)
        case Permute(of, dims):
            return Permute(renamed(of, rename), dims)
        case Stack(of, count):
            return Stack(renamed(of, rename), count)


def shape_of(recipe: Recipe, shape: Callable[[str], Shape]) -> Shape:
    """The shape a recipe gives, with `shape(name)` that of a tensor.

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
        case Stack():
            return _stack_shape([shape_of(one, shape) for one in recipe.each()])


def evaluate(recipe: Recipe, read: "Callable[[str], torch.Tensor]") -> "torch.Tensor":
    """The tensor a recipe describes; a view of what `read(name)` returns where the
    steps allow it."""
    match recipe:
        case str():
            return read(recipe)
        case Tensor(name, _):
            return read(name)
        case Cat(parts, dim):
            import torch

            return torch.cat([evaluate(part, read) for part in parts], dim)
        case Slice(of, dim, start, stop):
            return evaluate(of, read).narrow(dim, start, stop - start)
        case View(of, shape):
            return evaluate(of, read).reshape(shape)
        case Permute(of, dims):
            return evaluate(of, read).permute(dims)
        case Stack():
            import torch

            return torch.stack([evaluate(one, read) for one in recipe.each()])


def _at_layer(name: str, i: int) -> str:
    return name.replace("{i}", str(i))


def _with_index(name: str, x: int) -> str:
    return name.replace("{x}", str(x))


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
