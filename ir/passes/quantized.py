"""Keep quantised weights as they are stored, where an op can read them so.

Lowering says what a quantised weight means: codes times scales, made at load time.
This pass moves the product into the op. It comes after the merges, because scales of a
row, or of groups of its columns, allow whatever is done to whole rows: a step that
concatenates, cuts or reorders rows of the weight does the same to its codes, scales and
zero points. The target decides which codes can be packed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from glmc.ir.build import unique
from glmc.ir.dealing import deal, placement_of
from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.ledger import Entry, count
from glmc.ir.op import Op
from glmc.ir.ops import Embedding, Linear, QuantizedEmbedding, QuantizedLinear
from glmc.ir.recipe import (
    Cat,
    DequantGroups,
    DequantRows,
    OnFirst,
    Permute,
    Quantized,
    Recipe,
    Repacked,
    Shard,
    Slice,
    Stack,
    Tensor,
    View,
    cat,
    counted,
    permute,
    slice_,
    view,
)
from glmc.ir.types import TensorType

_TAKES: Mapping[type[Op], type[Op]] = {
    Linear: QuantizedLinear,
    Embedding: QuantizedEmbedding,
}
"""An op that reads a float matrix, and the one that reads codes and scales."""

_NAME = "keep-quantized"


_FORMS = DequantRows | DequantGroups
"""The formats that ops read once repacked: codes of 4 or 8 bits in rows."""

Packing = Callable[[int, int, int], str | None]
"""(bits, columns of a row, columns of a group) to a reason not to pack, or None."""


@dataclass(frozen=True)
class Pieces:
    """A quantised weight in its parts, with their bits and group size."""

    bits: int
    group: int
    codes: Recipe
    scale: Recipe
    zeros: Recipe | None


@dataclass(frozen=True)
class Stored:
    """A quantised parameter as one parameter for each part: codes, scale, zeros."""

    codes: Parameter
    scale: Parameter
    zeros: Parameter | None
    bits: int

    @property
    def params(self) -> list[Parameter]:
        """All of them."""
        return [self.codes, self.scale, *([self.zeros] if self.zeros else [])]


@dataclass(frozen=True)
class Into:
    """The conversion's target: dtype of scales, packing of codes; and the ledger it
    fills."""

    dtype: str
    packing: Packing
    entries: list[Entry]


class Refusal(Exception):
    """A parameter that has to be dequantised at load time; the message says why."""


@dataclass(frozen=True)
class KeepQuantized:
    """The pass; same interface as a :class:`~glmc.ir.passes.rewrite.Fusion`."""

    packing: Packing
    name: str = _NAME
    doc: str = "Quantised weights stay codes and scales; ops multiply as they read."

    def run(self, program: Program) -> tuple[Program, list[Entry]]:
        """Apply to every quantised parameter of blocks, stem and head."""
        entries: list[Entry] = []
        ends = (program.stem, program.head)
        into = Into(program.dtype, self.packing, entries)
        params, (stem, head) = _change(program.params, ends, into)
        blocks = []
        for block in program.blocks:
            own, (graph,) = _change(block.params, (block,), into)
            blocks.append(graph.replace(params=own))
        if all(entry.status == "refused" for entry in entries):
            return program, entries or [_absent()]
        changes = {"params": params, "stem": stem, "head": head}
        after = program.model_copy(update={**changes, "blocks": tuple(blocks)})
        return after, entries


def _absent() -> Entry:
    reason = "no weight of the model is stored as codes that an op reads"
    return Entry(
        fusion=_NAME, graph="", layers=0, status="absent", at="", reason=reason
    )


def _change(
    params: tuple[Parameter, ...],
    graphs: Sequence[Graph],
    into: Into,
) -> tuple[tuple[Parameter, ...], Sequence[Graph]]:
    """Replace quantised parameters that some graphs share by codes and scales, where
    all their readers can take them."""
    taken = [param.name for param in params]
    kept: list[Parameter] = []
    for param in params:
        if not any(isinstance(leaf, _FORMS) for leaf, _ in counted(param.recipe)):
            kept.append(param)
            continue
        users = [op for graph in graphs for op in graph.ops if param.name in op.params]
        graph = next(graph for graph in graphs if users[0] in graph.ops)
        try:
            stored = _stored(param, users, into, taken)
        except Refusal as refusal:
            kept.append(param)
            into.entries.append(_entry(graph, users, "refused", str(refusal)))
            continue
        kept += stored.params
        taken += [own.name for own in stored.params]
        graphs = [_reading(graph, stored) for graph in graphs]
        into.entries.append(_entry(graph, users, "applied", _saving(param, stored)))
    return tuple(kept), graphs


def _entry(graph: Graph, users: Sequence[Op], status: str, reason: str) -> Entry:
    return Entry.model_validate(
        {
            "fusion": _NAME,
            "graph": graph.name,
            "layers": count(graph),
            "status": status,
            "at": ", ".join(f"%{name}" for op in users for name in op.outs),
            "reason": reason,
        }
    )


def _saving(param: Parameter, stored: Stored) -> str:
    now = sum(own.type.nbytes() for own in stored.params)
    share = now / param.type.nbytes()
    return f"@{param.name} stays {stored.codes.type}: {share:.0%} of {param.type}"


def _stored(
    param: Parameter, users: Sequence[Op], into: Into, taken: Sequence[str]
) -> Stored:
    """Make parameters for codes, scales and zero points, named apart from ``taken``.

    Raises:
        Refusal: when an op that reads it, or its recipe, needs the weights themselves.
    """
    for op in users:
        if type(op) not in _TAKES or getattr(op, "weight", None) != param.name:
            raise Refusal(f"@{param.name} is read by {op.mnemonic}, which takes floats")
    pieces = _split(param.recipe, into.packing)
    if len(pieces.codes.shape) != 2:
        raise Refusal(f"@{param.name} is no matrix")
    looked_up = any(isinstance(op, Embedding) for op in users)
    if looked_up and len(pieces.scale.shape) > 1:
        raise Refusal(f"@{param.name} is looked up, and its rows have several scales")

    def own(name: str, kind: str, recipe: Recipe) -> Parameter:
        place = placement_of(recipe)
        type_of = TensorType(dtype=kind, dims=recipe.shape, placement=place)
        return Parameter(name=name, type=type_of, recipe=recipe)

    zeros = unique(f"{param.name}_zeros", taken)
    return Stored(
        codes=own(param.name, "i8", pieces.codes),
        scale=own(unique(f"{param.name}_scale", taken), into.dtype, pieces.scale),
        zeros=own(zeros, "i8", pieces.zeros) if pieces.zeros else None,
        bits=pieces.bits,
    )


def _split(recipe: Recipe, packing: Packing) -> Pieces:
    """Split the recipe of a quantised weight into recipes of its parts.

    Raises:
        Refusal: on a step that does not leave rows whole, parts stored differently, or
            codes that the target cannot pack.
    """
    match recipe:
        case DequantRows() | DequantGroups():
            return _leaf(recipe, packing)
        case Cat():
            return _joined(recipe, packing)
        case Tensor():
            raise Refusal("a part of it is stored as floats")
        case Quantized():
            raise Refusal("a part of it is stored otherwise than in rows of codes")
        case Repacked():
            raise AssertionError("this pass runs once")
        case OnFirst():
            raise Refusal("it is a summand of its own")
        case Shard():
            return _dealt(recipe, packing)
    of = _split(recipe.of, packing)
    zeros = None if of.zeros is None else _step(recipe, of.zeros)
    codes, scale = (_step(recipe, part) for part in (of.codes, of.scale))
    return replace(of, codes=codes, scale=scale, zeros=zeros)


def _leaf(leaf: DequantRows | DequantGroups, packing: Packing) -> Pieces:
    if len(leaf.shape) != 2:
        raise Refusal("it is a stack of matrices")
    width = leaf.shape[-1]
    group = leaf.group if isinstance(leaf, DequantGroups) else width
    group = min(group, width)
    if "index" in leaf.parts():
        raise Refusal("its groups are of columns that are no neighbours (desc_act)")
    if width % group:
        raise Refusal(f"groups of {group} do not divide rows of {width} codes")
    if reason := packing(leaf.bits, width, group):
        raise Refusal(reason)
    zeros = Repacked(of=leaf, part="zeros") if "zeros" in leaf.parts() else None
    codes, scale = Repacked(of=leaf, part="codes"), Repacked(of=leaf, part="scale")
    return Pieces(leaf.bits, group, codes, scale, zeros)


def _dealt(recipe: Shard, packing: Packing) -> Pieces:
    """Deal the parts of a weight as it is dealt itself: codes are cut at whole groups,
    so that scales and zero points of groups are cut with them."""
    of = _split(recipe.of, packing)
    width = recipe.shape[-1]
    group = min(of.group, width)
    if width % group:
        raise Refusal(f"groups of {group} do not divide rows of {width} codes")
    if reason := packing(of.bits, width, group):
        raise Refusal(reason)

    def part(one: Recipe) -> Recipe:
        if recipe.dim >= len(one.shape) or one.shape[recipe.dim] == 1:
            return one
        return deal(one, recipe.dim, recipe.ranks, recipe.copies)

    zeros = of.zeros and part(of.zeros)
    return replace(
        of, group=group, codes=part(of.codes), scale=part(of.scale), zeros=zeros
    )


def _joined(recipe: Cat, packing: Packing) -> Pieces:
    _whole(recipe, recipe.dim)
    parts = [_split(part, packing) for part in recipe.parts]
    first = parts[0]
    if len({part.bits for part in parts}) > 1:
        raise Refusal("its parts are stored with different bits")
    kinds = {(part.group, part.zeros is None) for part in parts}
    if len(kinds) > 1:
        raise Refusal("its parts are stored in different groups")
    zeros = [part.zeros for part in parts if part.zeros]
    return replace(
        first,
        codes=cat([part.codes for part in parts], recipe.dim),
        scale=cat([part.scale for part in parts], recipe.dim),
        zeros=cat(zeros, recipe.dim) if zeros else None,
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


def _reading(graph: Graph, stored: Stored) -> Graph:
    """Replace the ops of a graph that read the parameter."""
    ops = tuple(
        _quantized(op, stored) if stored.codes.name in op.params else op
        for op in graph.ops
    )
    return graph.replace(ops=ops)


def _quantized(op: Op, stored: Stored) -> Op:
    operands = {field: name for field, _, name in op.operands()}
    fields = {**operands, "scale": stored.scale.name, "bits": stored.bits}
    if stored.zeros:
        fields["zeros"] = stored.zeros.name
    return _TAKES[type(op)](results=op.results, **fields)
