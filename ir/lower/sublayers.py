"""Sublayers: what stands between a norm and the residual add."""

from collections.abc import Callable, Mapping
from typing import Any

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.blocks import block_attended
from glmc.ir.lower.emitter import Axes, Emitter
from glmc.ir.lower.mla import mla
from glmc.ir.lower.moe import routed

PREFIX = "prefix"
"""The value that says where the part ends that sees itself in both directions."""


def attention(e: Emitter, h: str, a: m.Attention) -> str:
    """Projections, per-head norms, rope, attention (over the cache), output."""
    group = a.heads // a.kv_heads
    axes = {"H": a.heads, "K": a.kv_heads, "D": a.head_dim, "G": group}
    axes |= {"Dv": a.v_dim} if a.v_dim else {}
    q = e.linear("q", h, a.q, ("H D", "E"), axes)
    k = e.linear("k", h, a.k, ("K D", "E"), axes)
    v = e.linear("v", h, a.v, (f"K {_width(a)}", "E"), axes)
    if a.clip:
        limited = [(ops.Clamp, f"{n}c", x) for n, x in (("q", q), ("k", k), ("v", v))]
        q, k, v = (e.emit(op, name, x=x, limit=a.clip) for op, name, x in limited)
    if a.qk_norm_scope == "full":
        q, k = _qk_norms(e, a, q, k, axes)
    q = e.emit(ops.Heads, "qh", x=q, n=a.heads)
    k = e.emit(ops.Heads, "kh", x=k, n=a.kv_heads)
    v = e.emit(ops.Heads, "vh", x=v, n=a.kv_heads)
    steps = [_rotated] if a.qk_norm_scope == "full" else [_qk_norms, _rotated]
    for step in reversed(steps) if a.qk_norm_after_rope else steps:
        q, k = step(e, a, q, k, axes)
    if a.v_norm:
        v = e.norm("vn", v, a.v_norm, (_width(a),), axes)
    if a.v_scale != 1.0:
        v = e.emit(ops.Scale, "vs", x=v, factor=a.v_scale)
    if a.q_scale:
        scale = e.tables.query_scale(a.q_scale)
        q = e.emit(ops.ScaleHeads, "qs", x=q, scale=scale)
    if a.indexer:
        context = block_attended(e, h, a, a.indexer, (q, k, v))
    else:
        context = _attended(e, a, q, k, v, axes)
    context = _context(e, a, context, h, axes)
    return e.linear("attn", context, a.o, ("E", f"H {_width(a)}"), axes)


def _width(a: m.Attention) -> str:
    """The axis of a value's channels."""
    return "Dv" if a.v_dim else "D"


def _qk_norms(
    e: Emitter, a: m.Attention, q: str, k: str, axes: Axes
) -> tuple[str, str]:
    """The norms of q and k, over what their scope says."""
    slots = {"head": ("D", "D"), "full": ("H D", "K D")}
    slot_q, slot_k = slots.get(a.qk_norm_scope, ("H D", "K D"))
    each = a.qk_norm_scope == "heads"
    if a.q_norm:
        q = e.norm("qn", q, a.q_norm, slot_q.split() if each else (slot_q,), axes)
    if a.k_norm:
        k = e.norm("kn", k, a.k_norm, slot_k.split() if each else (slot_k,), axes)
    return q, k


def _rotated(e: Emitter, a: m.Attention, q: str, k: str, axes: Axes) -> tuple[str, str]:
    if not a.rope:
        return q, k
    cos, sin = e.tables.names(a.rope)
    how = {"sections": a.rope.sections, "reverse": a.rope.reverse}
    turn = {"cos": cos, "sin": sin, "style": a.rope.style, **how}
    return e.emit(ops.Rope, "qr", x=q, **turn), e.emit(ops.Rope, "kr", x=k, **turn)


def _attended(e: Emitter, a: m.Attention, q: str, k: str, v: str, axes: Axes) -> str:
    """Attention by the mask's kind."""
    if a.mask == "full":
        fields = {"mask": "mask", "scale": a.scale}
        return str(e.emit(ops.FullAttention, "ctx", q=q, k=k, v=v, **fields))
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
    kv = e.emit(ops.KvWrite, "kv_now", kv="kv", k=k, v=v)
    return str(e.emit(ops.Attention, "ctx", q=q, kv=kv, **seen))


def _context(e: Emitter, a: m.Attention, context: str, h: str, axes: Axes) -> str:
    """What happens to the context before the output projection."""
    if a.gate:
        slot = "H" if a.gate.width == "head" else f"H {_width(a)}"
        gate = e.linear("attn_gate", h, a.gate.projection, (slot, "E"), axes)
        context = str(e.emit(ops.Gate, "gated", x=context, g=gate, fn=a.gate.act))
    if a.sub_norm:
        context = e.norm("ctx_normed", context, a.sub_norm, (f"H {_width(a)}",), axes)
    return context


def learned(model: m.Model) -> int:
    """How many slots of the cache a prefix encoder fills."""
    return model.prefix_encoder.length if model.prefix_encoder else 0


def mlp(e: Emitter, h: str, mlp: m.Mlp) -> str:
    """Two or three matrices with an activation between."""
    axes = {"F": mlp.ff}
    if mlp.gate:
        gate = e.linear("gate", h, mlp.gate, ("F", "E"), axes)
        up = e.linear("up", h, mlp.up, ("F", "E"), axes)
        ff = _gated(e, mlp, gate, up)
    else:
        up = e.linear("up", h, mlp.up, ("F", "E"), axes)
        ff = _activation(e, "ff", up, mlp.act)
    if mlp.sub_norm:
        ff = e.norm("ff_normed", ff, mlp.sub_norm, ("F",), axes)
    return e.linear("mlp", ff, mlp.down, ("E", "F"), axes)


def _gated(e: Emitter, mlp: m.Mlp, gate: str, up: str) -> str:
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
    """The experts of each token, and the MLP that all tokens share."""
    y = routed(e, h, moe)
    if not moe.shared:
        return y
    shared = mlp(e, h, moe.shared)
    if moe.shared_gate:
        gate = m.Projection(weight=moe.shared_gate)
        g = e.linear("shared_gate", h, gate, ("1", "E"))
        shared = str(e.emit(ops.Gate, "shared", x=shared, g=g, fn="sigmoid"))
    if not moe.averaged:
        return str(e.emit(ops.Add, "moe", x=y, y=shared))
    total = e.emit(ops.Add, "moe_sum", x=y, y=shared)
    return str(e.emit(ops.Scale, "moe", x=total, factor=0.5))


def affine(e: Emitter, h: str, op: m.Affine) -> str:
    """One matrix."""
    return e.linear("mapped", h, op.map, ("E_out", "E"))


Lowering = Callable[[Emitter, str, Any], str]

SUBLAYERS: Mapping[type, Lowering] = {
    m.Attention: attention,
    m.Mla: mla,
    m.Mlp: mlp,
    m.Moe: moe,
    m.Affine: affine,
}
"""Kind of sublayer to what it becomes: the graph, the normed input, the sublayer."""
