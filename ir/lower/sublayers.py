"""Lower sublayers: what stands between a norm and the residual add."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.blocks import block_attended
from glmc.ir.lower.emitter import Axes, Emitter
from glmc.ir.lower.mixers import gated_conv, mixer, selective
from glmc.ir.lower.mla import mla
from glmc.ir.lower.moe import route, routed
from glmc.ir.lower.pooled import pooled_attention
from glmc.ir.lower.units import channel_mix, lru, time_mix
from glmc.ir.state import KvType

LAYER_INPUT = "layer_input"
"""A layer's part of what the stem makes for all of them."""
EMBEDDED = "embedded"
"""The stem's value with what was embedded, where layers read it."""
PREFIX = "prefix"
"""The value with the slot at which the bidirectional part of each row ends."""


def attention(e: Emitter, h: str, a: m.Attention) -> str:
    """Emit projections, per-head norms, rope, attention and the output projection.

    Keys and values are those of this layer and those that it keeps; without projections
    for them they are all those that an earlier layer keeps.
    """
    group = a.heads // a.kv_heads
    axes = {"H": a.heads, "K": a.kv_heads, "D": a.head_dim, "G": group}
    axes |= {"Dv": a.v_dim} if a.v_dim else {}
    axes |= {"Ea": a.width} if a.width else {}
    chosen = _chosen(e, h, a.experts) if a.experts else None
    states = _projected(e, h, a, axes, chosen)
    if a.clip:
        for name, x in states.items():
            states[name] = e.emit(ops.Clamp, f"{name}c", x=x, limit=a.clip)
    if a.qk_norm_scope == "full":
        _qk_norms(e, a, states, axes)
    for name, x in states.items():
        if name == "q" and chosen:
            continue
        heads = a.heads if name == "q" else a.kv_heads
        states[name] = e.emit(ops.Heads, f"{name}h", x=x, n=heads)
    steps = [_rotated] if a.qk_norm_scope == "full" else [_qk_norms, _rotated]
    for step in reversed(steps) if a.qk_norm_after_rope else steps:
        step(e, a, states, axes)
    if a.v_norm and "v" in states:
        states["v"] = e.norm("vn", states["v"], a.v_norm, (_width(a),), axes)
    if a.v_scale != 1.0 and "v" in states:
        states["v"] = e.emit(ops.Scale, "vs", x=states["v"], factor=a.v_scale)
    if a.difference:
        states["v"] = e.emit(ops.PairValues, "pairs", v=states["v"])
    if a.q_scale:
        scale = e.tables.query_scale(a.q_scale)
        states["q"] = e.emit(ops.ScaleHeads, "qs", x=states["q"], scale=scale)
    if a.indexer:
        kv = e.state("kv", kv_type(a))
        context = block_attended(e, h, a, a.indexer, kv, states)
    else:
        context = _attended(e, a, states, axes)
    context = _context(e, a, context, h, axes)
    if not chosen:
        return e.linear("attn", context, a.o, ("E", f"H {_width(a)}"), axes)
    weight = e.weight(a.o.weight, ("X", "E", f"K {_width(a)}"), {**axes, **chosen.axes})
    fields = {"weights": chosen.weights, "kv_heads": a.kv_heads}
    fields |= {"x": context, "experts": chosen.experts, "weight": weight}
    y = e.emit(ops.ExpertOutputs, "attn", **fields)
    bias = e.bias(weight, a.o.bias, ("E",))
    return str(e.emit(ops.AddBias, "attn_biased", x=y, bias=bias) if bias else y)


@dataclass(frozen=True)
class _Chosen:
    """The experts that make a token's queries."""

    experts: str
    weights: str
    count: int

    @property
    def axes(self) -> Axes:
        return {"X": self.count}


def _chosen(e: Emitter, h: str, x: m.HeadExperts) -> _Chosen:
    return _Chosen(*route(e, h, x.router, x.experts, x.top_k), x.experts)


def _width(a: m.Attention) -> str:
    """Return the axis of a value's channels."""
    return "Dv" if a.v_dim else "D"


def _read(a: m.Attention) -> str:
    """Return the axis of what queries, keys and values are made of."""
    return "Ea" if a.width else "E"


States = dict[str, str]
"""Of ``q``, ``k`` and ``v`` those that a layer makes: the newest value of each."""


def _projected(
    e: Emitter, h: str, a: m.Attention, axes: Axes, chosen: _Chosen | None
) -> States:
    if chosen:
        weight = e.weight(a.q.weight, ("X", "K D", "E"), {**axes, **chosen.axes})
        fields = {"x": h, "experts": chosen.experts, "kv_heads": a.kv_heads}
        states = {"q": str(e.emit(ops.ExpertQueries, "q", **fields, weight=weight))}
    else:
        states = {"q": e.linear("q", h, a.q, ("H D", _read(a)), axes)}
    if a.k:
        states["k"] = e.linear("k", h, a.k, ("K D", _read(a)), axes)
        states["v"] = states["k"]
    if a.v:
        states["v"] = e.linear("v", h, a.v, (f"K {_width(a)}", _read(a)), axes)
    return states


def _qk_norms(e: Emitter, a: m.Attention, states: States, axes: Axes) -> None:
    """Emit the norms of q and k, over the axes that their scope says."""
    for name, heads, norm in (("q", "H", a.q_norm), ("k", "K", a.k_norm)):
        slots = {"head": ("D",), "full": (f"{heads} D",), "heads": (heads, "D")}
        slot = slots[a.qk_norm_scope]
        if norm and name in states:
            states[name] = e.norm(f"{name}n", states[name], norm, slot, axes)


def _rotated(e: Emitter, a: m.Attention, states: States, axes: Axes) -> None:
    if not a.rope:
        return
    cos, sin = e.tables.names(a.rope)
    how = {"sections": a.rope.sections, "reverse": a.rope.reverse}
    turn = {"cos": cos, "sin": sin, "style": a.rope.style, **how}
    for name in ("q", "k"):
        if name in states:
            states[name] = e.emit(ops.Rope, f"{name}r", x=states[name], **turn)


def _attended(e: Emitter, a: m.Attention, states: States, axes: Axes) -> str:
    """Emit attention with the mask of the model's kind."""
    if a.mask == "full":
        fields = {**states, "mask": "mask", "scale": a.scale, "window": a.window}
        fields["distances"] = e.tables.distances(a)
        return str(e.emit(ops.FullAttention, "ctx", **fields))
    seen = {
        "prefix": PREFIX if a.mask == "prefix" else None,
        "slopes": e.tables.slopes(a),
        "sinks": e.weight(a.sinks, ("H",), axes) if a.sinks else None,
        "scale": a.scale,
        "window": a.window,
        "learned": learned(e.model),
        "chunk": a.chunk,
        "softcap": a.softcap,
    }
    q = states.pop("q")
    kv = e.state("kv", kv_type(a), () if states else e.kv_from)
    if states:
        kv = e.emit(ops.KvWrite, "kv_now", kv=kv, **states)
    return str(e.emit(ops.Attention, "ctx", q=q, kv=kv, **seen))


def kv_type(a: m.Attention) -> KvType:
    """Return the type of the state that holds an attention's keys and values."""
    width = (a.v_dim or a.head_dim) * (2 if a.difference else 1)
    return KvType(kv_heads=a.kv_heads, k_dim=a.head_dim, v_dim=width)


def _context(e: Emitter, a: m.Attention, context: str, h: str, axes: Axes) -> str:
    """Emit the gate and the norm between the context and the output projection."""
    if a.difference:
        d = a.difference
        maps = {n: e.weight(getattr(d, n), ("D",), axes) for n in _LAMBDA}
        how = {"heads": a.heads, "init": d.init, "eps": d.eps}
        context = str(e.emit(ops.Difference, "differing", x=context, **maps, **how))
    if a.gate:
        slot = "H" if a.gate.width == "head" else f"H {_width(a)}"
        gate = e.linear("attn_gate", h, a.gate.projection, (slot, "E"), axes)
        if a.gate.head_bias:
            bias = e.weight(a.gate.head_bias, ("H",), axes)
            gate = e.emit(ops.AddBias, "attn_gate_biased", x=gate, bias=bias)
        context = str(e.emit(ops.Gate, "gated", x=context, g=gate, fn=a.gate.act))
    if a.sub_norm:
        context = e.norm("ctx_normed", context, a.sub_norm, (f"H {_width(a)}",), axes)
    return context


_LAMBDA = ("q1", "k1", "q2", "k2")


def learned(model: m.Model) -> int:
    """Return how many slots of the cache a prefix encoder fills."""
    return model.prefix_encoder.length if model.prefix_encoder else 0


def mlp(e: Emitter, h: str, mlp: m.Mlp) -> str:
    """Emit an MLP of two or three matrices."""
    axes = {"F": mlp.ff}
    if mlp.gate:
        gate = e.linear("gate", h, mlp.gate, ("F", "E"), axes)
        gate = e.scaled("gate_scaled", gate, mlp.gate_scale)
        up = e.linear("up", h, mlp.up, ("F", "E"), axes)
        ff = _gated(e, mlp, gate, up)
    else:
        up = e.linear("up", h, mlp.up, ("F", "E"), axes)
        ff = _activation(e, "ff", up, mlp.act)
    if mlp.sub_norm:
        ff = e.norm("ff_normed", ff, mlp.sub_norm, ("F",), axes)
    return e.linear("mlp", ff, mlp.down, ("E", "F"), axes)


def _gated(e: Emitter, mlp: m.Mlp, gate: str, up: str) -> str:
    if mlp.cutoff is not None:
        gate = e.emit(ops.CutBelow, "gate_cut", x=gate, deviations=mlp.cutoff)
    if mlp.glu:
        fields = {"gate": gate, "up": up, "fn": mlp.act, **mlp.glu.model_dump()}
        return str(e.emit(ops.ClampedGlu, "ff", **fields))
    act = _activation(e, "act", gate, mlp.act)
    return str(e.emit(ops.Mul, "ff", x=act, y=up))


def _activation(e: Emitter, result: str, x: str, act: str | m.Xielu) -> str:
    if not isinstance(act, m.Xielu):
        return str(e.emit(ops.Activation, result, x=x, fn=act))
    alphas = {
        name: e.weight(getattr(act, name), ("1",)) for name in ("alpha_p", "alpha_n")
    }
    made = e.emit(ops.Xielu, result, x=x, **alphas, beta=act.beta, eps=act.eps)
    return str(made)


def moe(e: Emitter, h: str, moe: m.Moe) -> str:
    """Emit the experts of each token, and the MLP that all tokens share."""
    x = e.norm("experts_in", h, moe.norm) if moe.norm else h
    y = routed(e, h, x, moe)
    if not moe.shared:
        return y
    shared = mlp(e, x, moe.shared)
    if moe.shared_gate:
        gate = m.Projection(weight=moe.shared_gate)
        g = e.linear("shared_gate", x, gate, ("1", "E"))
        shared = str(e.emit(ops.Gate, "shared", x=shared, g=g, fn="sigmoid"))
    if not moe.averaged:
        return str(e.emit(ops.Add, "moe", x=y, y=shared))
    total = e.emit(ops.Add, "moe_sum", x=y, y=shared)
    return str(e.emit(ops.Scale, "moe", x=total, factor=0.5))


def affine(e: Emitter, h: str, op: m.Affine) -> str:
    """Emit one matrix product."""
    return e.linear("mapped", h, op.map, ("E_out", "E"))


def low_rank(e: Emitter, h: str, op: m.LowRank) -> str:
    """Emit x plus a map of it through few channels."""
    axes = {"Rl": op.rank}
    low = e.linear("low", h, op.down, ("Rl", "E"), axes)
    y = e.linear("wide", low, op.up, ("E", "Rl"), axes)
    if op.norm:
        y = e.norm("wide_normed", y, op.norm)
    return str(e.emit(ops.Add, "augmented", x=h, y=y))


def branches(e: Emitter, h: str, op: m.Branches) -> str:
    """Emit feed-forwards side by side, and their sum."""
    made: list[str] = []
    for at, branch in enumerate(op.branches, 1):
        read = e.norm(f"b{at}", h, branch.pre) if branch.pre else h
        y = SUBLAYERS[type(branch.op)](e, read, branch.op)
        made.append(e.norm(f"{y}_normed", y, branch.post) if branch.post else y)
    total, *rest = made
    for y in rest:
        total = e.emit(ops.Add, "branches", x=total, y=y)
    return total


def chain(e: Emitter, x: str, op: m.Chain) -> str:
    """Emit sublayers one after the other."""
    slot, axes = "E", {"Ea": 2 * e.model.hidden}
    if op.beside:
        slot, x = "Ea", str(e.emit(ops.Concat, "beside", x=x, y=EMBEDDED))
    for at, link in enumerate(op.links, 1):
        read = e.norm(f"c{at}", x, link.pre, (slot,), axes) if link.pre else x
        x, slot = SUBLAYERS[type(link.op)](e, read, link.op), "E"
    return x


def per_layer_input(e: Emitter, h: str, op: m.PerLayerInput) -> str:
    """Emit an MLP gated by the layer's part of the per-layer embedding."""
    axes = {"Ep": e.part_width}
    gate = e.linear("gate", h, op.gate, ("Ep", "E"), axes)
    act = _activation(e, "act", gate, op.act)
    part = e.emit(ops.Mul, "part", x=act, y=LAYER_INPUT)
    return e.linear("layered", part, op.down, ("E", "Ep"), axes)


Lowering = Callable[[Emitter, str, Any], str]

SUBLAYERS: Mapping[type, Lowering] = {
    m.Attention: attention,
    m.Mla: mla,
    m.PooledAttention: pooled_attention,
    m.Mixer: mixer,
    m.Selective: selective,
    m.GatedConv: gated_conv,
    m.Lru: lru,
    m.TimeMix: time_mix,
    m.ChannelMix: channel_mix,
    m.Mlp: mlp,
    m.Moe: moe,
    m.Affine: affine,
    m.LowRank: low_rank,
    m.Branches: branches,
    m.Chain: chain,
    m.PerLayerInput: per_layer_input,
}
"""Kind of sublayer to its lowering, which gives the name of the sublayer's result."""
