"""Stem, blocks and head of a program."""

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.graph import Graph, Param, Program
from glmc.ir.lower.emitter import Emitter
from glmc.ir.lower.mla import SELECTION
from glmc.ir.lower.sublayers import SUBLAYERS
from glmc.ir.lower.tables import Tables
from glmc.ir.types import CacheType, TensorType, Type

POSITIONS = TensorType(dtype="i64", dims=("B", "T"))


def lower(model: m.Model) -> Program:
    """The model as graphs of plain ops.

    Raises:
        GlmcError: when a weight's layout does not give the slot it is bound to.
    """
    tables = Tables(model)
    shared: dict[str, Param] = {}
    return Program(
        name=model.name,
        dtype=model.dtype,
        stem=_stem(model, tables, shared),
        blocks=tuple(_block(model, tables, block) for block in model.blocks),
        head=_head(model, tables, shared),
        params=tuple(shared.values()),
    )


def _stem(model: m.Model, tables: Tables, shared: dict[str, Param]) -> Graph:
    """Token ids to the first hidden state, and the tables all layers share."""
    e = Emitter(model, tables, {"ids": POSITIONS, "pos": POSITIONS})
    embed = model.embed
    table = e.weight(embed.weight, ("V", "E"))
    if embed.positions:
        tokens = e.emit(ops.Embedding, "tokens", ids="ids", weight=table)
        rows = e.weight(embed.positions, ("P", "E"))
        places = e.emit(ops.Embedding, "places", ids="pos", weight=rows)
        x = e.emit(ops.Add, "x", x=tokens, y=places)
    else:
        x = e.emit(ops.Embedding, "x", ids="ids", weight=table)
    handed = [e.emit(ops.NoSelection, name, ids="ids") for name in _handed_on(model)]
    returns = [x, *handed, *tables.emit(e)]
    shared |= e.params
    return e.graph("stem", *returns).replace(params=())


def _head(model: m.Model, tables: Tables, shared: dict[str, Param]) -> Graph:
    """The last hidden state to logits."""
    e = Emitter(model, tables, {"x": _hidden(model)}, dict(shared))
    x = e.norm("h", "x", model.final_norm) if model.final_norm else "x"
    weight = e.weight(model.head.weight, ("V", "E"))
    bias = e.bias(weight, model.head.bias, ("V",))
    logits = e.emit(ops.Linear, "logits", x=x, weight=weight, bias=bias)
    shared |= e.params
    return e.graph("head", logits).replace(params=())


def _block(model: m.Model, tables: Tables, block: m.Block) -> Graph:
    """One kind of decoder block."""
    handed = _handed_on(model)
    inputs: dict[str, Type] = {"x": _hidden(model), **handed}
    e = Emitter(model, tables, inputs | tables.inputs() | {"kv": _cache(block)})
    e.carried = {name: name for name in handed}
    x = "x"
    for at, step in enumerate(block.steps, 1):
        result = "out" if at == len(block.steps) else f"x{at}"
        x = _step(e, x, step, at, result)
    returns = (x, *e.carried.values())
    return e.graph(block.name, *returns, layers=block.layers, prefix=block.prefix)


def _step(e: Emitter, x: str, step: m.Step, at: int, result: str) -> str:
    """x + post(op(pre(x)))."""
    h = e.norm(f"h{at}", x, step.pre) if step.pre else x
    y = SUBLAYERS[type(step.op)](e, h, step.op)
    if step.post:
        y = e.norm(f"{y}_normed", y, step.post)
    return str(e.emit(ops.Add, result, x=x, y=y))


def _hidden(model: m.Model) -> TensorType:
    return TensorType(dtype=model.dtype, dims=("B", "T", model.hidden))


def _handed_on(model: m.Model) -> dict[str, Type]:
    """What layers hand on besides the hidden state."""
    found = [step.op for block in model.blocks for step in block.steps]
    if not any(isinstance(op, m.Mla) and op.indexer == "shared" for op in found):
        return {}
    return {SELECTION: POSITIONS.model_copy(update={"dims": ("B", "T", "N")})}


def _cache(block: m.Block) -> CacheType:
    """The cache of a block's one attention."""
    found = [s.op for s in block.steps if isinstance(s.op, m.Attention | m.Mla)]
    a = found[0]
    if isinstance(a, m.Attention):
        return CacheType(kv_heads=a.kv_heads, k_dim=a.head_dim, v_dim=a.head_dim)
    index = a.indexer.dim if isinstance(a.indexer, m.Indexer) else 0
    return CacheType.of(a.heads, a.head_dim, a.v_dim, index)
