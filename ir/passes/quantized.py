"""Keep quantised weights as they are stored, where an op can read them so.

Lowering says what a quantised weight means: codes times scales, made at load time.
This pass moves the product into the op. It comes after the merges, because scales of a
row, or of groups of its columns, allow whatever is done to whole rows: a step that
concatenates, cuts or reorders rows of the weight does the same to its codes, scales and
zero points. The target decides which codes can be packed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from glmc.ir.build import unique
from glmc.ir.dealing import placement_of
from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.ledger import Entry, count
from glmc.ir.op import Op
from glmc.ir.ops import (
    Embedding,
    Linear,
    MoeExperts,
    QuantizedEmbedding,
    QuantizedExperts,
    QuantizedLinear,
)
from glmc.ir.passes.coded import FORMS, Kind, Packing, Pieces, Refusal, split
from glmc.ir.passes.straight import straightened
from glmc.ir.placement import REPLICATED
from glmc.ir.recipe import Recipe, counted, stored_dtype, view
from glmc.ir.types import TensorType

TAKES: Mapping[type[Op], type[Op]] = {
    Linear: QuantizedLinear,
    Embedding: QuantizedEmbedding,
}
"""An op that reads a float matrix, and the one that reads codes and scales."""

_NAME = "keep-quantized"


@dataclass(frozen=True)
class Stored:
    """A quantised parameter as one parameter for each part: codes, and by the fields of
    ops scale and perhaps zeros or factor."""

    codes: Parameter
    beside: Mapping[str, Parameter]
    kind: Kind

    @property
    def params(self) -> list[Parameter]:
        """All of them."""
        return [self.codes, *self.beside.values()]


@dataclass(frozen=True)
class Into:
    """The conversion's target: dtype of scales, packing of codes; and the ledger it
    fills."""

    dtype: str
    packing: Packing
    entries: list[Entry]


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
    params, graphs, done = _experts(params, graphs, into)
    taken = [param.name for param in params]
    kept: list[Parameter] = []
    for param in params:
        if param.name in done or not _is_coded(param):
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


def _is_coded(param: Parameter) -> bool:
    return any(isinstance(leaf, FORMS) for leaf, _ in counted(param.recipe))


def _experts(
    params: tuple[Parameter, ...], graphs: Sequence[Graph], into: Into
) -> tuple[tuple[Parameter, ...], Sequence[Graph], set[str]]:
    """Replace the stacks of experts by codes and scales, both of an op or none; also
    return the names of those that were looked at."""
    found = {param.name: param for param in params}
    made: dict[str, Stored] = {}
    done: set[str] = set()
    for graph in graphs:
        for op in graph.ops:
            names = _stacks(op, found)
            if not names or not any(_is_coded(found[name]) for name in names):
                continue
            done |= set(names)
            try:
                made |= _both(names, found, graphs, into)
            except Refusal as refusal:
                into.entries.append(_entry(graph, [op], "refused", str(refusal)))
                continue
            saved = "; ".join(_saving(found[name], made[name]) for name in names)
            into.entries.append(_entry(graph, [op], "applied", saved))
    after = [
        part
        for param in params
        for part in (made[param.name].params if param.name in made else [param])
    ]
    done |= {part.name for stored in made.values() for part in stored.params}
    return tuple(after), [_with_experts(graph, made) for graph in graphs], done


def _stacks(op: Op, found: Mapping[str, Parameter]) -> list[str]:
    """Name the stacks of an op that are among some parameters."""
    if not isinstance(op, MoeExperts):
        return []
    return [name for name in (op.gate_up, op.down) if name in found]


def _both(
    names: Sequence[str],
    found: Mapping[str, Parameter],
    graphs: Sequence[Graph],
    into: Into,
) -> dict[str, Stored]:
    """Make parameters for the parts of both stacks of an op.

    Raises:
        Refusal: when one of them cannot be kept, or they are stored differently.
    """
    stored = {}
    for name in names:
        readers = [op for graph in graphs for op in graph.ops if name in op.params]
        if len(readers) > 1:
            raise Refusal(f"@{name} is read by several ops")
        if placement_of(found[name].recipe) != REPLICATED:
            raise Refusal(f"@{name} is dealt to ranks, as floats")
        pieces = split(straightened(found[name].recipe), into.packing)
        if len(pieces.codes.shape) != 3:
            raise Refusal(f"@{name} is no stack of matrices")
        pieces = replace(
            pieces, scale=_grouped(pieces.scale), zeros=_grouped(pieces.zeros)
        )
        stored[name] = _parameters(found[name], pieces, into, list(found))
    kinds = {(s.kind.bits, s.kind.floats, s.kind.divided) for s in stored.values()}
    if len(stored) < len(_STACKS) or len(kinds) > 1:
        raise Refusal("an expert's matrices are stored in different ways")
    if len({"zeros" in one.beside for one in stored.values()}) > 1:
        raise Refusal("an expert's matrices are stored in different ways")
    return stored


_STACKS = ("gate_up", "down")


@overload
def _grouped(scale: Recipe) -> Recipe: ...
@overload
def _grouped(scale: None) -> None: ...
def _grouped(scale: Recipe | None) -> Recipe | None:
    """Give the scales of rows a dimension of groups, of one."""
    if scale is None or len(scale.shape) == 3:
        return scale
    return view(scale, (*scale.shape, 1))


def _with_experts(graph: Graph, made: Mapping[str, Stored]) -> Graph:
    """Replace the ops of a graph that read stacks of codes."""

    def change(op: Op) -> Op:
        if not isinstance(op, MoeExperts) or op.gate_up not in made:
            return op
        fields: dict[str, Any] = {n: getattr(op, n) for n in type(op).model_fields}
        for stack in _STACKS:
            stored = made[getattr(op, stack)]
            fields |= {f"{stack}_{f}": one.name for f, one in stored.beside.items()}
        return QuantizedExperts(**(fields | made[op.gate_up].kind.attributes))

    return graph.replace(ops=tuple(map(change, graph.ops)))


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
        if type(op) not in TAKES or getattr(op, "weight", None) != param.name:
            raise Refusal(f"@{param.name} is read by {op.mnemonic}, which takes floats")
    pieces = split(param.recipe, into.packing)
    if len(pieces.codes.shape) != 2:
        raise Refusal(f"@{param.name} is no matrix")
    looked_up = any(isinstance(op, Embedding) for op in users)
    if looked_up and len(pieces.scale.shape) > 1:
        raise Refusal(f"@{param.name} is looked up, and its rows have several scales")
    if looked_up and pieces.kind.floats:
        raise Refusal(f"@{param.name} is looked up, and its codes are small floats")

    return _parameters(param, pieces, into, taken)


def _parameters(
    param: Parameter, pieces: Pieces, into: Into, taken: Sequence[str]
) -> Stored:
    """Make a parameter for each part of a weight, named apart from ``taken``."""

    def own(name: str, recipe: Recipe) -> Parameter:
        dtype, place = stored_dtype(recipe) or into.dtype, placement_of(recipe)
        kind = TensorType(dtype=dtype, dims=recipe.shape, placement=place)
        return Parameter(name=name, type=kind, recipe=recipe)

    parts = (
        ("scale", pieces.scale),
        ("zeros", pieces.zeros),
        ("factor", pieces.factor),
    )
    beside = {
        field: own(unique(f"{param.name}_{field}", taken), recipe)
        for field, recipe in parts
        if recipe
    }
    return Stored(own(param.name, pieces.codes), beside, pieces.kind)


def _reading(graph: Graph, stored: Stored) -> Graph:
    """Replace the ops of a graph that read the parameter."""
    ops = tuple(
        _quantized(op, stored) if stored.codes.name in op.params else op
        for op in graph.ops
    )
    return graph.replace(ops=ops)


def _quantized(op: Op, stored: Stored) -> Op:
    operands = {field: name for field, _, name in op.operands()}
    beside = {field: param.name for field, param in stored.beside.items()}
    taker = TAKES[type(op)]
    known = taker.model_fields.keys()
    told = {key: value for key, value in stored.kind.attributes.items() if key in known}
    return taker(results=op.results, **{**operands, **beside, **told})
