"""Stem, blocks and head of a program."""

from collections.abc import Callable

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.graph import Graph, Param, Program
from glmc.ir.lower.emitter import Emitter
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
    returns = [_embed(e, model.embed), *tables.emit(e)]
    shared |= e.params
    return e.graph("stem", *returns).replace(params=())


def _embed(e: Emitter, embed: m.Embedding) -> str:
    """norm(scale · project(token) + place): what is given of it, in this order."""
    steps: list[tuple[str, Callable[[Emitter, m.Embedding, str, str], str]]]
    steps = [("tokens", _looked_up)]
    steps += [("projected", _projected)] if embed.project else []
    steps += [("scaled", _scaled)] if embed.scale else []
    steps += [("placed", _placed)] if embed.positions else []
    steps += [("normed", _normed)] if embed.norm else []
    x = "ids"
    for at, (name, step) in enumerate(steps, 1):
        x = step(e, embed, x, "x" if at == len(steps) else name)
    return x


def _looked_up(e: Emitter, embed: m.Embedding, ids: str, result: str) -> str:
    table = e.weight(embed.weight, ("V", "W" if embed.project else "E"))
    return str(e.emit(ops.Embedding, result, ids=ids, weight=table))


def _projected(e: Emitter, embed: m.Embedding, x: str, result: str) -> str:
    assert embed.project
    return e.linear(result, x, embed.project, ("E", "W"))


def _scaled(e: Emitter, embed: m.Embedding, x: str, result: str) -> str:
    factor = {"factor": embed.scale, "rounded": embed.scale_rounded}
    return str(e.emit(ops.Scale, result, x=x, **factor))


def _placed(e: Emitter, embed: m.Embedding, x: str, result: str) -> str:
    """The token's vector plus its place's, which is learned or computed."""
    if isinstance(embed.positions, m.Sinusoids):
        fields = {"dim": e.model.hidden, **embed.positions.model_dump()}
        table = e.emit(ops.Sinusoids, "places", pos="pos", **fields)
        return str(e.emit(ops.AddTable, result, x=x, table=table))
    assert embed.positions
    rows = e.weight(embed.positions, ("P", "E"))
    places = e.emit(ops.Embedding, "places", ids="pos", weight=rows)
    return str(e.emit(ops.Add, result, x=x, y=places))


def _normed(e: Emitter, embed: m.Embedding, x: str, result: str) -> str:
    assert embed.norm
    return e.norm(result, x, embed.norm)


def _head(model: m.Model, tables: Tables, shared: dict[str, Param]) -> Graph:
    """The last hidden state to logits."""
    e = Emitter(model, tables, {"x": _hidden(model)}, dict(shared))
    x = e.norm("h", "x", model.final_norm) if model.final_norm else "x"
    logits = _logits(e, x, model.head)
    shared |= e.params
    return e.graph("head", logits).replace(params=())


def _logits(e: Emitter, x: str, head: m.Head) -> str:
    """softcap(scale · W (pre_scale · project(x)))."""
    if head.project:
        x = e.linear("projected", x, head.project, ("W", "E"))
    if head.pre_scale != 1.0:
        x = e.emit(ops.Scale, "scaled", x=x, factor=head.pre_scale)
    weight = e.weight(head.weight, ("V", "W" if head.project else "E"))
    bias = e.bias(weight, head.bias, ("V",))
    y = e.emit(ops.Linear, "logits", x=x, weight=weight, bias=bias)
    if head.scale != 1.0:
        y = e.emit(ops.Scale, "scaled_logits", x=y, factor=head.scale)
    if head.softcap:
        y = e.emit(ops.SoftCap, "capped_logits", x=y, cap=head.softcap)
    return str(y)


def _block(model: m.Model, tables: Tables, block: m.Block) -> Graph:
    """One kind of decoder block."""
    inputs: dict[str, Type] = {"x": _hidden(model)}
    e = Emitter(model, tables, inputs | tables.inputs() | {"kv": _cache(block)})
    x = "x"
    read: dict[m.Norm | None, str] = {}
    for at, step in enumerate(block.steps, 1):
        if not step.parallel:
            read = {None: x}
        if step.pre not in read:
            assert step.pre
            read[step.pre] = e.norm(f"h{at}", read[None], step.pre)
        result = "out" if at == len(block.steps) else f"x{at}"
        x = _step(e, x, read[step.pre], step, result)
    return e.graph(block.name, x, layers=block.layers, prefix=block.prefix)


def _step(e: Emitter, x: str, h: str, step: m.Step, result: str) -> str:
    """after(x + scale · post(op(h))), where h is pre(x)."""
    y = SUBLAYERS[type(step.op)](e, h, step.op)
    if step.post:
        y = e.norm(f"{y}_normed", y, step.post)
    if step.scale != 1.0:
        y = e.emit(ops.Scale, f"{y}_scaled", x=y, factor=step.scale)
    if not step.after:
        return str(e.emit(ops.Add, result, x=x, y=y))
    total = e.emit(ops.Add, f"{y}_added", x=x, y=y)
    return e.norm(result, total, step.after)


def _hidden(model: m.Model) -> TensorType:
    return TensorType(dtype=model.dtype, dims=("B", "T", model.hidden))


def _cache(block: m.Block) -> CacheType:
    """The cache of a block's one attention."""
    found = [s.op for s in block.steps if isinstance(s.op, m.Attention)]
    a = found[0]
    return CacheType(kv_heads=a.kv_heads, k_dim=a.head_dim, v_dim=a.head_dim)
