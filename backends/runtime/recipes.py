"""Recipes: the assembly of parameters from checkpoint tensors, as data.

A recipe is the name of a tensor, alone or with its shape as `tensor(name, *shape)`, or
`cat`, `slice_`, `view`, `permute` or `stack` of recipes, or the weights that quantised
tensors stand for, as the constructors in `codes` give. `{i}` in a name stands for the
layer, `{x}` for the index within a stack.
This module needs no torch: a checkpoint can be checked from its headers alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

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
class Step:
    """A step with one operand, `of`; a base."""

    of: "Recipe"

    def shape(self, old: Shape) -> Shape:
        """Returns the shape that it makes of that of its operand. Raises ValueError
        with the reason where they do not fit."""
        raise NotImplementedError

    def taken(self, whole: "torch.Tensor") -> "torch.Tensor":
        """Returns what it makes of its operand, a view where that is possible."""
        raise NotImplementedError


@dataclass(frozen=True)
class Slice(Step):
    """`start .. stop` of dimension `dim`."""

    dim: int
    start: int
    stop: int

    def shape(self, old: Shape) -> Shape:
        dim, start, stop = self.dim, self.start, self.stop
        if dim >= len(old) or not 0 <= start < stop <= old[dim]:
            raise ValueError(f"{list(old)} has no {start}:{stop} in dimension {dim}")
        return (*old[:dim], stop - start, *old[dim + 1 :])

    def taken(self, whole: "torch.Tensor") -> "torch.Tensor":
        return whole.narrow(self.dim, self.start, self.stop - self.start)


@dataclass(frozen=True)
class View(Step):
    """The same elements in another shape."""

    to: Shape

    def shape(self, old: Shape) -> Shape:
        if math.prod(old) != math.prod(self.to):
            raise ValueError(f"{list(old)} cannot be viewed as {list(self.to)}")
        return self.to

    def taken(self, whole: "torch.Tensor") -> "torch.Tensor":
        return whole.reshape(self.to)


@dataclass(frozen=True)
class Permute(Step):
    """The dimensions in another order."""

    dims: tuple[int, ...]

    def shape(self, old: Shape) -> Shape:
        if sorted(self.dims) != list(range(len(old))):
            raise ValueError(f"{list(old)} cannot be permuted by {self.dims}")
        return tuple(old[dim] for dim in self.dims)

    def taken(self, whole: "torch.Tensor") -> "torch.Tensor":
        return whole.permute(self.dims)


@dataclass(frozen=True)
class Stack:
    """The parts in a new first dimension."""

    parts: "tuple[Recipe, ...]"


@dataclass(frozen=True)
class Quantized:
    """The base of quantised weights; their tensors are the fields that hold one."""

    codes: Tensor

    #: Whether a checkpoint may hold this weight alone as floats.
    alone: ClassVar[bool] = True

    def parts(self) -> dict[str, Tensor]:
        """Returns the tensors of the checkpoint, by field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: v for k, v in values.items() if isinstance(v, Tensor)}

    def with_parts(self, change: "Callable[[Tensor], Tensor]") -> Self:
        """Returns the same recipe of other tensors."""
        parts: dict[str, Any] = {k: change(part) for k, part in self.parts().items()}
        return replace(self, **parts)

    def dtypes(self) -> dict[str, str]:
        """Returns the stored dtypes, by safetensors' names; a field left out holds
        floats."""
        return {"codes": "I8"}

    def together(self) -> int:
        """Returns the number of rows that stay together in any cut: those of a block,
        or of a word of codes."""
        return 1

    def shape(self) -> Shape:
        """Returns the shape of the weights."""
        return self.codes.shape

    def weights(
        self, read: "Read", dtype: "torch.dtype", rows: slice
    ) -> "torch.Tensor":
        """Returns the weights; of a matrix some `rows`, which begin where a block
        does."""
        raise NotImplementedError

    def of_floats(self, bits: int) -> "Quantized":
        """Returns weights that are rounded to such codes as they are read, from a
        checkpoint that holds floats.

        Raises ValueError where these codes are of a kind that is not made of floats, or
        have another number of bits.
        """
        raise ValueError("the build reads codes of a kind that is not made of floats")

    def kept_shape(self, part: str) -> Shape:
        """Returns the shape of a part of a matrix; see `Repacked`."""
        raise NotImplementedError

    def kept_columns(
        self, part: str, kept: "torch.Tensor", of: slice
    ) -> "torch.Tensor":
        """Returns a part of a matrix for some columns, given that of all: columns `of`
        the part, where they are not packed."""
        raise NotImplementedError

    def kept(self, part: str, read: "Read", rows: slice) -> "torch.Tensor":
        """Returns some `rows` of a part of a matrix; see `Repacked`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Repacked:
    """A part of quantised weights as ops read it: codes, repacked (see `quantization`),
    scale, or zeros."""

    of: Quantized
    part: str


Leaf: TypeAlias = str | Tensor | Quantized
Recipe: TypeAlias = str | Tensor | Cat | Step | Stack | Quantized | Repacked
Read: TypeAlias = "Callable[[str], torch.Tensor]"


@dataclass(frozen=True)
class Bind:
    """One parameter, or with `layers` one in each of them, and its recipe.

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
        """Yields one Bind a parameter, with the layer put in place of `{i}`."""
        if self.layers is None:
            yield self
            return
        numbers = self.layers if self.numbers is None else self.numbers
        for i, number in zip(self.layers, numbers, strict=True):
            recipe = renamed(self.recipe, partial(_at_layer, i=number))
            path = _at_layer(self.path, i)
            yield Bind(path, recipe, self.shape, dtype=self.dtype)


def tensor(name: str, *shape: int) -> Tensor:
    """Names a tensor, refused where it has another shape."""
    return Tensor(name, shape)


def cat(*parts: Recipe, dim: int = 0) -> Cat:
    """Concatenates the parts along `dim`."""
    return Cat(parts, dim)


def slice_(of: Recipe, dim: int, start: int, stop: int) -> Slice:
    """Takes `start .. stop` of dimension `dim`."""
    return Slice(of, dim, start, stop)


def view(of: Recipe, *shape: int) -> View:
    """Gives the same elements the shape `shape`."""
    return View(of, shape)


def permute(of: Recipe, *dims: int) -> Permute:
    """Permutes dimensions: i of the result is `dims[i]` of the source."""
    return Permute(of, dims)


def stack(of: Recipe, count: int) -> Stack:
    """Stacks one of `of` for each index `{x}` below `count`."""
    at = (partial(_with_index, x=x) for x in range(count))
    return Stack(tuple(renamed(of, name) for name in at))


def names(recipe: Recipe) -> Iterator[str]:
    """Yields the checkpoint tensors a recipe reads."""
    for leaf in leaves(recipe):
        match leaf:
            case str():
                yield leaf
            case Tensor(name, _):
                yield name
            case _:
                yield from (part.name for part in leaf.parts().values())


def renamed(recipe: Recipe, rename: Callable[[str], str]) -> Recipe:
    """Returns the recipe with every tensor name passed through `rename`."""

    def change(leaf: Leaf) -> Recipe:
        match leaf:
            case str():
                return rename(leaf)
            case Tensor(name, shape):
                return Tensor(rename(name), shape)
        return leaf.with_parts(lambda part: Tensor(rename(part.name), part.shape))

    return changed(recipe, change)


def changed(recipe: Recipe, change: "Callable[[Leaf], Recipe]") -> Recipe:
    """Returns the recipe with `change` made to each tensor, or pair of codes and
    scale."""
    match recipe:
        case Cat(parts, dim):
            return Cat(tuple(changed(part, change) for part in parts), dim)
        case Stack(parts):
            return Stack(tuple(changed(part, change) for part in parts))
        case Step(of):
            return replace(recipe, of=changed(of, change))
        case Repacked(of):
            inner = changed(of, change)
            assert isinstance(inner, Quantized)
            return Repacked(inner, recipe.part)
    return change(recipe)


def leaves(recipe: Recipe) -> "Iterator[Leaf]":
    """Yields the tensors, and pairs of codes and scale, that a recipe puts together."""
    match recipe:
        case Cat(parts) | Stack(parts):
            for part in parts:
                yield from leaves(part)
        case Step(of) | Repacked(of):
            yield from leaves(of)
        case _:
            yield recipe


def is_repacked(recipe: Recipe) -> bool:
    """Tells whether a recipe assembles parts of quantised weights, not the weights."""
    match recipe:
        case Cat(parts) | Stack(parts):
            return any(map(is_repacked, parts))
        case Step(of):
            return is_repacked(of)
    return isinstance(recipe, Repacked)


def _at_layer(name: str, i: int) -> str:
    return name.replace("{i}", str(i))


def _with_index(name: str, x: int) -> str:
    return name.replace("{x}", str(x))
