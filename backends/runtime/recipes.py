"""How parameters are made of checkpoint tensors, as data.

A recipe is the name of a tensor, alone or with its shape as `tensor(name, *shape)`, or
`cat`, `slice_`, `view`, `permute` or `stack` of recipes, or the weights that quantised
tensors stand for, as `dequant_rows` or `dequant_blocks`. `{i}` in a name stands for the
layer, `{x}` for the index within a stack.
This module needs no torch: a checkpoint can be checked from its headers alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
    """The parts in a new first dimension."""

    parts: "tuple[Recipe, ...]"


@dataclass(frozen=True)
class DequantRows:
    """int8 `codes`, or int4 ones two to a byte, times the `scale` of their row."""

    codes: Tensor
    scale: Tensor
    bits: int


@dataclass(frozen=True)
class DequantBlocks:
    """float8 `codes` times the `scale` of their block of rows and columns.

    Where a checkpoint holds `codes` as plain floats, `scale` is not read.
    """

    codes: Tensor
    scale: Tensor
    block: tuple[int, int]


Dequant: TypeAlias = DequantRows | DequantBlocks
Leaf: TypeAlias = str | Tensor | Dequant
Recipe: TypeAlias = str | Tensor | Cat | Slice | View | Permute | Stack | Dequant


@dataclass(frozen=True)
class Bind:
    """One parameter, or with `layers` one in each of them, and what it is made of.

    `dtype`, by safetensors' name, is that of parameters which keep their own whatever
    the model is loaded in: "F32", or "I8" for codes, which are taken as they are.
    `numbers` are what `{i}` is in tensor names, where it is not the layer's own number.
    """

    path: str
    recipe: Recipe
    shape: Shape
    layers: Sequence[int] | None = None
    dtype: str | None = None
    numbers: Sequence[int] | None = None

    def each(self) -> "Iterator[Bind]":
        """One Bind a parameter, with the layer put in place of `{i}`."""
        if self.layers is None:
            yield self
            return
        numbers = self.layers if self.numbers is None else self.numbers
        for i, number in zip(self.layers, numbers, strict=True):
            recipe = renamed(self.recipe, partial(_at_layer, i=number))
            path = _at_layer(self.path, i)
            yield Bind(path, recipe, self.shape, dtype=self.dtype)


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
    at = (partial(_with_index, x=x) for x in range(count))
    return Stack(tuple(renamed(of, name) for name in at))


def dequant_rows(codes: Tensor, scale: Tensor, *, bits: int) -> DequantRows:
    """Codes of 8 or 4 bits, each times the scale of its row."""
    return DequantRows(codes, scale, bits)


def dequant_blocks(
    codes: Tensor, scale: Tensor, *, block: tuple[int, int]
) -> DequantBlocks:
    """Codes in float8, each times the scale of its block."""
    return DequantBlocks(codes, scale, block)


def names(recipe: Recipe) -> Iterator[str]:
    """The checkpoint tensors a recipe reads."""
    for leaf in leaves(recipe):
        match leaf:
            case str():
                yield leaf
            case Tensor(name, _):
                yield name
            case _:
                yield from (leaf.codes.name, leaf.scale.name)


def renamed(recipe: Recipe, rename: Callable[[str], str]) -> Recipe:
    """The recipe with every tensor name passed through `rename`."""

    def change(leaf: Leaf) -> Recipe:
        match leaf:
            case str():
                return rename(leaf)
            case Tensor(name, shape):
                return Tensor(rename(name), shape)
        codes, scale = (
            Tensor(rename(part.name), part.shape) for part in (leaf.codes, leaf.scale)
        )
        return replace(leaf, codes=codes, scale=scale)

    return changed(recipe, change)


def changed(recipe: Recipe, change: "Callable[[Leaf], Recipe]") -> Recipe:
    """The recipe with `change` made to each tensor, or pair of codes and scale."""
    match recipe:
        case Cat(parts, dim):
            return Cat(tuple(changed(part, change) for part in parts), dim)
        case Stack(parts):
            return Stack(tuple(changed(part, change) for part in parts))
        case Slice(of) | View(of) | Permute(of):
            return replace(recipe, of=changed(of, change))
    return change(recipe)


def leaves(recipe: Recipe) -> "Iterator[Leaf]":
    """The tensors, and pairs of codes and scale, that a recipe puts together."""
    match recipe:
        case Cat(parts) | Stack(parts):
            for part in parts:
                yield from leaves(part)
        case Slice(of) | View(of) | Permute(of):
            yield from leaves(of)
        case _:
            yield recipe


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
        case Stack(parts):
            return _stack_shape([shape_of(part, shape) for part in parts])
        case DequantRows(codes, scale, bits):
            shape_of(scale, shape)
            *rows, width = shape_of(codes, shape)
            return (*rows, width * 8 // bits)
        case DequantBlocks(codes, scale, _):
            shape_of(scale, shape)
            return shape_of(codes, shape)


def evaluate(
    recipe: Recipe,
    read: "Callable[[str], torch.Tensor]",
    dtype: "torch.dtype | None" = None,
) -> "torch.Tensor":
    """The tensor a recipe describes; a view of what `read(name)` returns where the
    steps allow it. `dtype` is that of dequantised weights, float32 by default."""
    match recipe:
        case str():
            return read(recipe)
        case Tensor(name, _):
            return read(name)
        case Cat(parts, dim):
            import torch

            return torch.cat([evaluate(part, read, dtype) for part in parts], dim)
        case Slice(of, dim, start, stop):
            return evaluate(of, read, dtype).narrow(dim, start, stop - start)
        case View(of, shape):
            return evaluate(of, read, dtype).reshape(shape)
        case Permute(of, dims):
            return evaluate(of, read, dtype).permute(dims)
        case Stack(parts):
            import torch

            return torch.stack([evaluate(part, read, dtype) for part in parts])
        case DequantRows() | DequantBlocks():
            return dequantized(recipe, read(recipe.codes.name), read, dtype)


def dequantized(
    recipe: Dequant,
    codes: "torch.Tensor",
    read: "Callable[[str], torch.Tensor]",
    dtype: "torch.dtype | None",
    first: int = 0,
) -> "torch.Tensor":
    """The weights of `codes`, which are rows of the recipe's from `first` on."""
    import torch

    from .quantization import dequantize_blocks, dequantize_rows

    dtype = dtype or torch.float32
    scale = read(recipe.scale.name)
    if isinstance(recipe, DequantRows):
        scale = scale[first : first + len(codes)]
        return dequantize_rows(codes, scale, dtype, recipe.bits)
    begin = first // recipe.block[0]
    return dequantize_blocks(codes, scale[begin:], dtype, recipe.block)


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
