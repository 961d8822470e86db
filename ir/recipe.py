"""Weight recipes: expressions that assemble a parameter from the published tensors.

A recipe is a small expression tree over checkpoint tensors. Passes rewrite it (a QKV
merge is a :class:`Cat`), backends print it, ``glmc check`` evaluates its shape against
the headers. Constructors below (:func:`cat`, :func:`slice_`, …) simplify as they build,
so that splitting a fused tensor and merging it again gives back the bare tensor.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from glmc.ir.leaves import (
    Dequant,
    DequantBlocks,
    DequantFloats,
    Quantized,
    RoundedGroups,
    Shape,
    Tensor,
)
from glmc.ir.node import Node


class Slice(Node):
    """``of.narrow(dim, start, stop - start)``."""

    of: "Recipe"
    dim: int
    start: int
    stop: int

    @property
    def shape(self) -> Shape:
        shape = list(self.of.shape)
        shape[self.dim] = self.stop - self.start
        return tuple(shape)


class View(Node):
    """``of.reshape(shape)``."""

    of: "Recipe"
    to: Shape

    @property
    def shape(self) -> Shape:
        return self.to


class Permute(Node):
    """``of.permute(dims)``."""

    of: "Recipe"
    dims: tuple[int, ...]

    @property
    def shape(self) -> Shape:
        shape = self.of.shape
        return tuple(shape[d] for d in self.dims)


class Cat(Node):
    """``torch.cat(parts, dim)``."""

    parts: tuple["Recipe", ...]
    dim: int = 0

    @property
    def shape(self) -> Shape:
        shape = list(self.parts[0].shape)
        shape[self.dim] = sum(part.shape[self.dim] for part in self.parts)
        return tuple(shape)


class Stack(Node):
    """``torch.stack`` of ``of`` with ``{x}`` in its names counting up to ``count``."""

    of: "Recipe"
    count: int

    @property
    def shape(self) -> Shape:
        return (self.count, *self.of.shape)


class Repacked(Node):
    """A part of quantised weights ``[out, in]``, repacked at load time for ops that
    read codes: ``codes`` i8 ``[out, in * bits / 8]``, ``scale`` ``[out]`` or ``[out,
    groups]``, ``zeros`` i8 ``[out, groups]``, or ``factor`` ``[out]``. Rows stay
    rows; a stack of small floats has a dimension before them."""

    of: Dequant
    part: Literal["codes", "scale", "zeros", "factor"]

    @property
    def shape(self) -> Shape:
        *rows, width = self.of.shape
        bits = 8 if isinstance(self.of, DequantBlocks) else self.of.bits
        if self.part == "codes":
            return (*rows, width * bits // 8)
        count = self._groups(math.prod(rows))
        alone = count == 1 and "zeros" not in self.of.parts()
        return tuple(rows) if alone or self.part == "factor" else (*rows, count)

    @property
    def dtype(self) -> str | None:
        """The dtype it has whatever the model is loaded in; None: the model's."""
        match self.part, self.of:
            case (("codes" | "zeros"), _):
                return "i8"
            case "scale", DequantFloats(powers=powers):
                return "u8" if powers else "f8"
            case ("factor", _) | (_, DequantBlocks()):
                return "f32"
        return None

    def _groups(self, height: int) -> int:
        if isinstance(self.of, RoundedGroups):
            return self.of.shape[-1] // self.of.group
        if isinstance(self.of, DequantBlocks):
            return self.of.scale.stored[-1]
        return math.prod(self.of.scale.stored) // height


class Shard(Node):
    """This rank's part of dimension ``dim`` of ``of``, one of ``ranks`` equal ones.

    With ``copies`` so many ranks after one another have the same part. What a dimension
    lacks for parts of one size are zeros in the last ranks.
    """

    of: "Recipe"
    dim: int
    ranks: int
    copies: int = 1

    @property
    def shape(self) -> Shape:
        shape = list(self.of.shape)
        shape[self.dim] = -(-shape[self.dim] * self.copies // self.ranks)
        return tuple(shape)


class OnFirst(Node):
    """``of`` on the first rank, and zeros on the others: a summand of itself."""

    of: "Recipe"

    @property
    def shape(self) -> Shape:
        return self.of.shape


Recipe = (
    Tensor | Slice | View | Permute | Cat | Stack | Shard | OnFirst | Dequant | Repacked
)


def slice_(of: Recipe, dim: int, start: int, stop: int) -> Recipe:
    """Slice along a dimension; a slice of everything is the operand itself."""
    if (start, stop) == (0, of.shape[dim]):
        return of
    return Slice(of=of, dim=dim, start=start, stop=stop)


def view(of: Recipe, shape: Sequence[int]) -> Recipe:
    """Reshape; views of views collapse."""
    shape = tuple(shape)
    if isinstance(of, View):
        of = of.of
    if math.prod(shape) != math.prod(of.shape):
        raise ValueError(f"a view of {list(of.shape)} as {list(shape)}")
    return of if shape == of.shape else View(of=of, to=shape)


def permute(of: Recipe, dims: Sequence[int]) -> Recipe:
    """Permute the dimensions; the identity is the operand itself."""
    dims = tuple(dims)
    return of if dims == tuple(range(len(dims))) else Permute(of=of, dims=dims)


def cat(parts: Sequence[Recipe], dim: int = 0) -> Recipe:
    """Concatenate; neighbours that are adjacent slices of one tensor are joined."""
    flat: list[Recipe] = []
    for part in parts:
        inner = part.parts if isinstance(part, Cat) and part.dim == dim else (part,)
        for one in inner:
            joined = _join(flat[-1], one, dim) if flat else None
            flat[-1:] = [joined] if joined else [*flat[-1:], one]
    return flat[0] if len(flat) == 1 else Cat(parts=tuple(flat), dim=dim)


def _join(left: Recipe, right: Recipe, dim: int) -> Recipe | None:
    """Return ``left | right`` as one recipe if they lie side by side in one tensor,
    else None.

    Stacks of as many are one stack, whose elements are joined.
    """
    if isinstance(left, Stack) and isinstance(right, Stack):
        if left.count != right.count or dim == 0:
            return None
        return Stack(of=cat([left.of, right.of], dim - 1), count=left.count)
    if isinstance(left, Permute) and isinstance(right, Permute):
        if left.dims != right.dims:
            return None
        inner = _join(left.of, right.of, left.dims[dim])
        return permute(inner, left.dims) if inner else None
    if not (isinstance(left, Slice) and isinstance(right, Slice)):
        return None
    if (left.of, left.dim, left.stop) != (right.of, right.dim, right.start):
        return None
    return slice_(left.of, dim, left.start, right.stop) if left.dim == dim else None


def leaves(recipe: Recipe) -> Iterator[Tensor | Dequant]:
    """Yield the leaves that a recipe is assembled from, in order, repeats included."""
    match recipe:
        case Tensor() | Quantized():
            yield recipe
        case Repacked(of=of):
            yield of
        case Cat():
            for part in recipe.parts:
                yield from leaves(part)
        case Stack(of=of, count=count):
            for x in range(count):
                for leaf in leaves(of):
                    yield _stacked(leaf, x)
        case _:
            yield from leaves(recipe.of)


def counted(recipe: Recipe) -> Iterator[tuple[Tensor | Dequant, int]]:
    """Yield the leaves as they are written, and the number of tensors that ``{x}``
    makes of each: a layer's hundreds of experts are one leaf."""
    match recipe:
        case Tensor() | Quantized():
            yield recipe, 1
        case Repacked(of=of):
            yield of, 1
        case Cat():
            for part in recipe.parts:
                yield from counted(part)
        case Stack(of=of, count=count):
            for leaf, times in counted(of):
                yield leaf, times * count
        case _:
            yield from counted(recipe.of)


def _stacked(leaf: Tensor | Dequant, x: int) -> Tensor | Dequant:
    """Return a leaf for element ``x`` of a stack."""
    if isinstance(leaf, Tensor):
        return Tensor(name=leaf.name.replace("{x}", str(x)), stored=leaf.stored)
    parts = {name: _stacked(part, x) for name, part in leaf.parts().items()}
    return leaf.model_copy(update=parts)


def rebuilt(recipe: Recipe, leaf: Callable[[Tensor], Recipe]) -> Recipe:
    """Return a recipe with another in the place of each plain tensor."""
    match recipe:
        case Tensor():
            return leaf(recipe)
        case Quantized() | Repacked():
            return recipe
        case Cat(parts=parts, dim=dim):
            return cat([rebuilt(part, leaf) for part in parts], dim)
    return recipe.model_copy(update={"of": rebuilt(recipe.of, leaf)})


def is_repacked(recipe: Recipe) -> bool:
    """Tell whether a recipe assembles parts of quantised weights, not the weights."""
    return next(_repacked(recipe), None) is not None


def stored_dtype(recipe: Recipe) -> str | None:
    """Return the dtype that a parameter has whatever the model is loaded in, as the
    parts of quantised weights do that it is assembled from; None: the model's."""
    return next((part.dtype for part in _repacked(recipe)), None)


def _repacked(recipe: Recipe) -> Iterator[Repacked]:
    match recipe:
        case Repacked():
            yield recipe
        case Cat(parts=parts):
            for part in parts:
                yield from _repacked(part)
        case Tensor() | Quantized():
            return
        case _:
            yield from _repacked(recipe.of)


def tensors(recipe: Recipe) -> Iterator[Tensor]:
    """Yield the checkpoint tensors a recipe reads, in order, repeats included."""
    for leaf in leaves(recipe):
        yield from (leaf,) if isinstance(leaf, Tensor) else leaf.parts().values()


def misfit(recipe: Recipe) -> str | None:
    """Return why a step of a recipe does not fit its operand, or None if all fit."""
    match recipe:
        case Tensor() | Quantized():
            inner: tuple[Recipe, ...] = ()
        case Repacked(of=of):
            inner = (of,)
        case Cat(parts=parts):
            inner = parts
        case _:
            inner = (recipe.of,)
    return next(filter(None, map(misfit, inner)), None) or _misfit(recipe)


def _misfit(recipe: Recipe) -> str | None:
    match recipe:
        case Slice(of=of, dim=dim, start=start, stop=stop):
            if (
                dim not in range(len(of.shape))
                or not 0 <= start < stop <= of.shape[dim]
            ):
                return f"{list(of.shape)} has no {start}:{stop} in dimension {dim}"
        case View(of=of, to=to):
            if math.prod(of.shape) != math.prod(to):
                return f"{list(of.shape)} cannot be viewed as {list(to)}"
        case Permute(of=of, dims=dims):
            if sorted(dims) != list(range(len(of.shape))):
                return f"{list(of.shape)} cannot be permuted by {list(dims)}"
        case Cat(parts=parts, dim=dim):
            rest = {(*p.shape[:dim], *p.shape[dim + 1 :]) for p in parts}
            if not parts or dim not in range(len(parts[0].shape)) or len(rest) > 1:
                shapes = ", ".join(str(list(part.shape)) for part in parts)
                return f"{shapes or 'nothing'} cannot be joined along dimension {dim}"
        case Shard(of=of, dim=dim, ranks=ranks, copies=copies):
            inside = dim in range(len(of.shape)) and 0 < copies <= ranks
            if not inside or ranks % copies:
                return f"{list(of.shape)} has no dimension {dim} for {ranks} ranks"
            if of.shape[dim] <= (ranks // copies - 1) * recipe.shape[dim]:
                return f"{list(of.shape)} has nothing for the last of {ranks} ranks"
    return None
