"""Sublayers: what stands between a norm and the residual add."""

from collections.abc import Callable, Mapping
from typing import Any

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Emitter
from glmc.ir.lower.mla import mla
from glmc.ir.lower.moe import routed

PREFIX = "prefix"
"""The value that says where the part ends that sees itself in both directions."""


def attention(e: Emitter, h: str, a: m.Attention) -> str:
    """Projections, per-head norms, rope, attention (over the cache), output."""
    group = a.heads // a.kv_heads
    axes = {"H": a.heads, "K": a.kv_heads, "D": a.head_dim, "G": group}
    q = e.linear("q", h, a.q, ("H D", "E"), axes)
    k = e.linear("k", h, a.k, ("K D", "E"), axes)
    v = e.linear("v", h, a.v, ("K D", "E"), axes)
    q = e.emit(ops.Heads, "qh", x=q, n=a.heads)
    k = e.emit(ops.Heads, "kh", x=k, n=a.kv_heads)
    v = e.emit(ops.Heads, "vh", x=v, n=a.kv_heads)
    if a.q_norm:
        q = e.norm("qn", q, a.q_norm, ("D",), axes)
    if a.k_norm:
        k = e.norm("kn", k, a.k_norm, ("D",), axes)
    if a.rope:
        cos, sin = e.tables.names(a.rope)
        how = {"style": a.rope.style, "sections": a.rope.sections}
        turn = {"cos": cos, "sin": sin, **how}
        q = e.emit(ops.Rope, "qr", x=q, **turn)
        k = e.emit(ops.Rope, "kr", x=k, **turn)
    return e.linear("attn", _context(e, a, q, k, v), a.o, ("E", "H D"), axes)


def _context(e: Emitter, a: m.Attention, q: str, k: str, v: str) -> str:
    """Attention by the mask's kind."""
    if a.mask == "full":
        seen = {"mask": "mask", "scale": a.scale}
        return str(e.emit(ops.FullAttention, "ctx", q=q, k=k, v=v, **seen))
    kv = e.emit(ops.KvWrite, "kv_now", kv="kv", k=k, v=v)
    seen = {"scale": a.scale, "window": a.window, "learned": learned(e.model)}
    seen["prefix"] = PREFIX if a.mask == "prefix" else None
    return str(e.emit(ops.Attention, "ctx", q=q, kv=kv, **seen))


def learned(model: m.Model) -> int:
    """How many slots of the cache a prefix encoder fills."""
    return model.prefix_encoder.length if model.prefix_encoder else 0


def mlp(e: Emitter, h: str, mlp: m.Mlp) -> str:
    """Two or three matrices with an activation between."""
    axes = {"F": mlp.ff}
    if mlp.gate:
        gate = e.linear("gate", h, mlp.gate, ("F", "E"), axes)
        up = e.linear("up", h, mlp.up, ("F", "E"), axes)
        act = e.emit(ops.Activation, "act", x=gate, fn=mlp.act)
        ff = e.emit(ops.Mul, "ff", x=act, y=up)
    else:
        up = e.linear("up", h, mlp.up, ("F", "E"), axes)
        ff = e.emit(ops.Activation, "ff", x=up, fn=mlp.act)
    return e.linear("mlp", ff, mlp.down, ("E", "F"), axes)


def moe(e: Emitter, h: str, moe: m.Moe) -> str:
    """The experts of each token, and the MLP that all tokens share."""
    y = routed(e, h, moe)
    if not moe.shared:
        return y
    return str(e.emit(ops.Add, "moe", x=y, y=mlp(e, h, moe.shared)))


Lowering = Callable[[Emitter, str, Any], str]

SUBLAYERS: Mapping[type, Lowering] = {
    m.Attention: attention,
    m.Mla: mla,
    m.Mlp: mlp,
    m.Moe: moe,
}
"""Kind of sublayer to what it becomes: the graph, the normed input, the sublayer."""
