"""Leave quantised weights as they are stored, where an op can read them so.

Lowering says what a quantised weight means: codes times scales, made at load time.
This pass moves the product into the op. It comes after the merges, because per-row
scales allow whatever is done to whole rows: what concatenates, cuts or reorders rows of
the weight does the same to its codes and to its scales.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glmc.ir.build import unique
from glmc.ir.graph import Graph, Param, Program
from glmc.ir.op import Op
from glmc.ir.ops import Embedding, Linear, QuantizedEmbedding, QuantizedLinear
from glmc.ir.passes.ledger import Entry, count
from glmc.ir.recipe import (
    Cat,
    DequantBlocks,
    DequantRows,
    Permute,
    Recipe,
    Slice,
    Stack,
    Tensor,
    View,
    cat,
    leaves,
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


@dataclass(frozen=True)
class Stored:
    """A quantised parameter in two: its codes and its scales."""

    codes: Param
    scale: Param
    bits: int


class Refusal(Exception):
    """Why a parameter has to be made at load time."""


@dataclass(frozen=True)
class KeepQuantized:
    """The pass; same interface as a :class:`~glmc.ir.passes.rewrite.Fusion`."""

    name: str = _NAME
    doc: str = "Quantised weights stay codes and scales; ops multiply as they read."

    def run(self, program: Program) -> tuple[Program, list[Entry]]:
        """Apply to every quantised parameter of blocks, stem and head."""
        entries: list[Entry] = []
        ends = (program.stem, program.head)
        params, (stem, head) = _change(program.params, ends, program.dtype, entries)
        blocks = []
        for block in program.blocks:
            own, (graph,) = _change(block.params, (block,), program.dtype, entries)
            blocks.append(graph.replace(params=own))
        changes = {"params": params, "stem": stem, "head": head}
        after = program.model_copy(update={**changes, "blocks": tuple(blocks)})
        return after, entries or [_absent()]


def _absent() -> Entry:
    reason = "no weight of the model is stored as rows of codes"
    return Entry(
        fusion=_NAME, graph="", layers=0, status="absent", at="", reason=reason
    )


def _change(
    params: tuple[Param, ...],
    graphs: Sequence[Graph],
    dtype: str,
    entries: list[Entry],
) -> tuple[tuple[Param, ...], Sequence[Graph]]:
    """Parameters that some graphs share, and the graphs, with codes where it goes."""
    taken = [param.name for param in params]
    kept: list[Param] = []
    for param in params:
        if not any(isinstance(leaf, DequantRows) for leaf in leaves(param.recipe)):
            kept.append(param)
            continue
        users = [op for graph in graphs for op in graph.ops if param.name in op.params]
        graph = next(graph for graph in graphs if users[0] in graph.ops)
        try:
            stored = _stored(param, users, dtype, unique(f"{param.name}_scale", taken))
        except Refusal as refusal:
            kept.append(param)
            entries.append(_entry(graph, users, "refused", str(refusal)))
            continue
        kept += [stored.codes, stored.scale]
        taken.append(stored.scale.name)
        graphs = [_reading(graph, stored) for graph in graphs]
        entries.append(_entry(graph, users, "applied", _saving(param, stored)))
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


def _saving(param: Param, stored: Stored) -> str:
    now = stored.codes.type.nbytes() + stored.scale.type.nbytes()
    share = now / param.type.nbytes()
    return f"@{param.name} stays {stored.codes.type}: {share:.0%} of {param.type}"


def _stored(param: Param, users: Sequence[Op], dtype: str, scale_name: str) -> Stored:
    """Codes and scales of a parameter.

    Raises:
        Refusal: when an op that reads it, or its recipe, needs the weights themselves.
    """
    for op in users:
        if type(op) not in _TAKES or getattr(op, "weight", None) != param.name:
            raise Refusal(f"@{param.name} is read by {op.mnemonic}, which takes floats")
    bits, codes, scale = _split(param.recipe)
    if len(codes.shape) != 2:
        raise Refusal(f"@{param.name} is no matrix")
    codes_type = TensorType(dtype="i8", dims=codes.shape)
    scale_type = TensorType(dtype=dtype, dims=scale.shape)
    return Stored(
        codes=Param(name=param.name, type=codes_type, recipe=codes),
        scale=Param(name=scale_name, type=scale_type, recipe=scale),
        bits=bits,
    )


def _split(recipe: Recipe) -> tuple[int, Recipe, Recipe]:
    """(bits, recipe of the codes, recipe of the scales).

    Raises:
        Refusal: on a step that does not leave rows whole, or parts stored differently.
    """
    match recipe:
        case DequantRows():
            return recipe.bits, recipe.codes, recipe.scale
        case Cat():
            return _joined(recipe)
        case Tensor():
            raise Refusal("a part of it is stored as floats")
        case DequantBlocks():
            raise Refusal("a part of it is stored as blocks of float8")
    bits, codes, scale = _split(recipe.of)
    return bits, _step(recipe, codes), _step(recipe, scale, vector=True)


def _joined(recipe: Cat) -> tuple[int, Recipe, Recipe]:
    _whole(recipe, recipe.dim)
    bits, codes, scales = zip(*map(_split, recipe.parts), strict=True)
    if len(set(bits)) > 1:
        raise Refusal("its parts are stored with different bits")
    return bits[0], cat(codes, recipe.dim), cat(scales, recipe.dim)


def _step(
    recipe: Slice | View | Permute | Stack, of: Recipe, vector: bool = False
) -> Recipe:
    """A step on rows, done to codes, or to the ``vector`` of scales."""
    match recipe:
        case Stack(count=count):
            return Stack(of=of, count=count)
        case Slice(dim=dim, start=start, stop=stop):
            _whole(recipe.of, dim)
            return slice_(of, dim, start, stop)
        case View(to=to):
            if to[-1] != recipe.of.shape[-1]:
                raise Refusal("it is reshaped across its rows")
            rows = to[:-1]
            return view(of, rows if vector else (*rows, of.shape[-1]))
        case Permute(dims=dims):
            if dims[-1] != len(dims) - 1:
                raise Refusal("it is stored transposed")
            return permute(of, dims[:-1] if vector else dims)


def _whole(recipe: Recipe, dim: int) -> None:
    if dim == len(recipe.shape) - 1:
        raise Refusal("its rows are cut or joined, and a row has one scale")


def _reading(graph: Graph, stored: Stored) -> Graph:
    """The graph with the ops that read the parameter replaced."""
    ops = tuple(
        _quantized(op, stored) if stored.codes.name in op.params else op
        for op in graph.ops
    )
    return graph.replace(ops=ops)


def _quantized(op: Op, stored: Stored) -> Op:
    operands = {field: name for field, _, name in op.operands()}
    fields = {**operands, "scale": stored.scale.name, "bits": stored.bits}
    return _TAKES[type(op)](results=op.results, **fields)
