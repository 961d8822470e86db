"""Split the recipe of a weight into codes, scales and zero points, each with the steps
that are done to rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from glmc.ir.dealing import deal
from glmc.ir.leaves import (
    Dequant,
    DequantBlocks,
    DequantFloats,
    DequantGroups,
    DequantRows,
    Quantized,
    RoundedGroups,
    Tensor,
)
from glmc.ir.ops.quantized import Floats
from glmc.ir.recipe import (
    Cat,
    OnFirst,
    Permute,
    Recipe,
    Repacked,
    Shard,
    Slice,
    Stack,
    View,
    cat,
    permute,
    slice_,
    view,
)

FORMS = DequantRows | DequantGroups | DequantFloats | DequantBlocks | RoundedGroups
"""The formats that ops may read once repacked: codes of 4 or 8 bits in rows."""


Packing = Callable[[int, int, int], str | None]
"""(bits, columns of a row, columns of a group) to a reason not to pack, or None."""


@dataclass(frozen=True)
class Pieces:
    """A quantised weight in its parts, with how they are stored."""

    kind: "Kind"
    codes: Recipe
    scale: Recipe
    zeros: Recipe | None = None
    factor: Recipe | None = None

    def each(self, change: "Callable[[Recipe], Recipe]") -> "Pieces":
        """Return the same pieces with a change made to each."""
        zeros, factor = (one and change(one) for one in (self.zeros, self.factor))
        return Pieces(self.kind, change(self.codes), change(self.scale), zeros, factor)


@dataclass(frozen=True)
class Kind:
    """The storage of codes: bits, columns that share a scale, and what small floats
    they are where they are no integers."""

    bits: int
    group: int
    floats: Floats = None
    divided: bool = False

    @property
    def attributes(self) -> dict[str, object]:
        """Return the attributes of ops that tell it."""
        return {"bits": self.bits, "floats": self.floats, "divided": self.divided}


class Refusal(Exception):
    """A parameter that has to be dequantised at load time; the message says why."""


def split(recipe: Recipe, packing: Packing) -> Pieces:
    """Split the recipe of a quantised weight into recipes of its parts.

    Raises:
        Refusal: on a step that does not leave rows whole, parts stored differently, or
            codes that the target cannot pack.
    """
    match recipe:
        case DequantBlocks(sure=False):
            raise Refusal("the files may hold it as floats, whatever the config says")
        case Quantized():
            return _leaf(recipe, packing)
        case Cat():
            return _joined(recipe, packing)
        case Tensor():
            raise Refusal("a part of it is stored as floats")
        case Repacked():
            raise AssertionError("this pass runs once")
        case OnFirst():
            raise Refusal("it is a summand of its own")
        case Shard():
            return _dealt(recipe, packing)
    step = recipe
    return split(recipe.of, packing).each(lambda part: _step(step, part))


def _leaf(leaf: Dequant, packing: Packing) -> Pieces:
    whole = isinstance(leaf, DequantFloats) and "factor" not in leaf.parts()
    if len(leaf.shape) != 2 and not whole:
        raise Refusal("it is a stack of matrices")
    kind, width = _kind(leaf), leaf.shape[-1]
    parts = leaf.parts()
    if "index" in parts:
        raise Refusal("its groups are of columns that are no neighbours (desc_act)")
    if width % kind.group:
        raise Refusal(f"groups of {kind.group} do not divide rows of {width} codes")
    if reason := packing(kind.bits, width, kind.group):
        raise Refusal(reason)
    return Pieces(
        kind,
        Repacked(of=leaf, part="codes"),
        Repacked(of=leaf, part="scale"),
        Repacked(of=leaf, part="zeros") if "zeros" in parts else None,
        Repacked(of=leaf, part="factor") if "factor" in parts else None,
    )


def _kind(leaf: Dequant) -> Kind:
    """Tell how the codes of a leaf are stored.

    Raises:
        Refusal: when no op reads codes of its kind.
    """
    width = leaf.shape[-1]
    match leaf:
        case DequantRows(bits=bits):
            return Kind(bits, width)
        case DequantGroups(bits=bits, group=group):
            return Kind(bits, min(group, width))
        case RoundedGroups(bits=bits, group=group):
            return Kind(bits, group)
        case DequantBlocks(block=(_, columns)):
            return Kind(8, min(columns, width), "fp8")
    group = width // leaf.scale.stored[-1]
    if leaf.powers == ("factor" in leaf.parts()):
        raise Refusal("its scales are of no format that ops read")
    return Kind(leaf.bits, group, "mx" if leaf.powers else "nvfp4", leaf.divided)


def _dealt(recipe: Shard, packing: Packing) -> Pieces:
    """Deal the parts of a weight as it is dealt itself: codes are cut at whole groups,
    so that scales and zero points of groups are cut with them."""
    of = split(recipe.of, packing)
    width = recipe.shape[-1]
    group = min(of.kind.group, width)
    if width % group:
        raise Refusal(f"groups of {group} do not divide rows of {width} codes")
    if reason := packing(of.kind.bits, width, group):
        raise Refusal(reason)

    def part(one: Recipe) -> Recipe:
        if recipe.dim >= len(one.shape) or one.shape[recipe.dim] == 1:
            return one
        return deal(one, recipe.dim, recipe.ranks, recipe.copies)

    return replace(of.each(part), kind=replace(of.kind, group=group))


def _joined(recipe: Cat, packing: Packing) -> Pieces:
    _whole(recipe, recipe.dim)
    parts = [split(part, packing) for part in recipe.parts]
    kinds = {part.kind for part in parts}
    if len({(kind.bits, kind.floats, kind.divided) for kind in kinds}) > 1:
        raise Refusal("its parts are stored with different bits, or kinds of codes")
    if len(kinds) > 1 or len({part.zeros is None for part in parts}) > 1:
        raise Refusal("its parts are stored in different groups")
    zeros = [part.zeros for part in parts if part.zeros]
    factors = [part.factor for part in parts if part.factor]
    return Pieces(
        parts[0].kind,
        codes=cat([part.codes for part in parts], recipe.dim),
        scale=cat([part.scale for part in parts], recipe.dim),
        zeros=cat(zeros, recipe.dim) if zeros else None,
        factor=cat(factors, recipe.dim) if factors else None,
    )


def _step(recipe: Slice | View | Permute | Stack, of: Recipe) -> Recipe:
    """Apply a step on whole rows to a part: codes and grouped scales have a last
    dimension of their own, scales of whole rows have none."""
    match recipe:
        case Stack(count=count):
            return Stack(of=of, count=count)
        case Slice(dim=dim, start=start, stop=stop):
            _whole(recipe.of, dim)
            return slice_(of, dim, start, stop)
        case View(to=to):
            if to[-1] != recipe.of.shape[-1]:
                raise Refusal("it is reshaped across its rows")
            return view(of, (*to[:-1], *of.shape[len(recipe.of.shape) - 1 :]))
        case Permute(dims=dims):
            if dims[-1] != len(dims) - 1:
                raise Refusal("it is stored transposed")
            return permute(of, dims[: len(of.shape)])


def _whole(recipe: Recipe, dim: int) -> None:
    if dim == len(recipe.shape) - 1:
        raise Refusal("its rows are cut or joined")
