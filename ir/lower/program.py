"""Stem, blocks, head and prefix encoder of a program."""

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.graph import Graph, Param, Program
from glmc.ir.lower.emitter import Emitter
from glmc.ir.lower.sublayers import PREFIX, SUBLAYERS
from glmc.ir.lower.tables import Tables
from glmc.ir.types import CacheType, TensorType, Type

IDS = TensorType(dtype="i64", dims=("B", "T"))
STREAMS = TensorType(dtype="i64", dims=("B", 2, "T"))
"""What :class:`~glmc.ir.model.GlmPositions` gives."""
BOUND = TensorType(dtype="i32", dims=("B",))


def lower(model: m.Model) -> Program:
    """The model as graphs of plain ops.

    Raises:
        GlmcError: when a weight's layout does not give the slot it is bound to.
    """
    tables = Tables(model)
    shared: dict[str, Param] = {}
    stem = _stem(model, tables, shared)
    blocks = tuple(_block(model, tables, block) for block in model.blocks)
    head = _head(model, tables, shared)
    encoder = model.prefix_encoder
    return Program(
        name=model.name,
        dtype=model.dtype,
        prefix_encoder=_prefix_encoder(model, encoder, shared) if encoder else None,
        stem=stem,
        blocks=blocks,
        head=head,
        params=tuple(shared.values()),
    )


def _prefix_encoder(
    model: m.Model, encoder: m.PrefixEncoder, shared: dict[str, Param]
) -> Graph:
    """Row numbers to the keys and values of every layer."""
    caches = [_cache(b) for b in model.blocks for _ in b.layers]
    heads = sum(2 * kv.kv_heads for kv in caches)
    width = caches[0].k_dim
    sizes = {"N": encoder.length, "S": heads * width, "U": model.hidden}
    rows = TensorType(dtype="i64", dims=(1, encoder.length))
    e = Emitter(model, tables=Tables(model), inputs={"rows": rows}, shared=shared)
    inner = "S" if encoder.row == "states" else "E"
    table = e.weight(encoder.table, ("N", inner), sizes)
    x = e.emit(ops.Embedding, "row", ids="rows", weight=table)
    if encoder.up and encoder.down:
        up = e.linear("up", x, encoder.up, ("U", inner), sizes)
        act = e.emit(ops.Activation, "act", x=up, fn="tanh")
        x = e.linear("states", act, encoder.down, ("S", "U"), sizes)
    states = e.emit(ops.Heads, "kv_heads", x=x, n=heads)
    shared |= e.params
    return e.graph("prefix_encoder", states).replace(params=())


def _stem(model: m.Model, tables: Tables, shared: dict[str, Param]) -> Graph:
    """Token ids to the first hidden state, and the tables all layers share."""
    bound = _bound(model)
    pos = STREAMS if model.positions else IDS
    e = Emitter(model, tables, {"ids": IDS, "pos": pos, **bound})
    embed = model.embed
    table = e.weight(embed.weight, ("V", "E"))
    if embed.positions:
        tokens = e.emit(ops.Embedding, "tokens", ids="ids", weight=table)
        rows = e.weight(embed.positions, ("P", "E"))
        places = e.emit(ops.Embedding, "places", ids="pos", weight=rows)
        x = e.emit(ops.Add, "x", x=tokens, y=places)
    else:
        x = e.emit(ops.Embedding, "x", ids="ids", weight=table)
    returns = [x, *tables.emit(e), *bound]
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
    inputs: dict[str, Type] = {"x": _hidden(model)}
    inputs |= tables.inputs() | _bound(model)
    e = Emitter(model, tables, inputs | {"kv": _cache(block)})
    x = "x"
    for at, step in enumerate(block.steps, 1):
        result = "out" if at == len(block.steps) else f"x{at}"
        x = _step(e, x, step, at, result)
    return e.graph(block.name, x, layers=block.layers, prefix=block.prefix)


def _step(e: Emitter, x: str, step: m.Step, at: int, result: str) -> str:
    """scale · r + post(op(pre(x))), where r is x or pre(x)."""
    h = e.norm(f"h{at}", x, step.pre) if step.pre else x
    y = SUBLAYERS[type(step.op)](e, h, step.op)
    if step.post:
        y = e.norm(f"{y}_normed", y, step.post)
    r = h if step.residual == "normed" else x
    if step.residual_scale != 1:
        r = e.emit(ops.Scale, f"r{at}", x=r, factor=step.residual_scale)
    return str(e.emit(ops.Add, result, x=r, y=y))


def _bound(model: m.Model) -> dict[str, Type]:
    """Where the bidirectional part of each row ends, for layers that ask."""
    steps = [step.op for block in model.blocks for step in block.steps]
    asked = any(isinstance(op, m.Attention) and op.mask == "prefix" for op in steps)
    return {PREFIX: BOUND} if asked else {}


def _hidden(model: m.Model) -> TensorType:
    return TensorType(dtype=model.dtype, dims=("B", "T", model.hidden))


def _cache(block: m.Block) -> CacheType:
    """The cache of a block's one attention."""
    found = [s.op for s in block.steps if isinstance(s.op, m.Attention)]
    a = found[0]
    return CacheType(kv_heads=a.kv_heads, k_dim=a.head_dim, v_dim=a.head_dim)
