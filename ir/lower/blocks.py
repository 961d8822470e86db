"""Attention over blocks of cached tokens that an indexer selects, as ops."""

from collections.abc import Mapping

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Emitter
from glmc.ir.state import TokenType


def block_attended(
    e: Emitter,
    h: str,
    a: m.Attention,
    ix: m.BlockIndexer,
    kv: str,
    states: Mapping[str, str],
) -> str:
    """Emit cache write, block selection and attention; return the context."""
    q, k, v = (states[name] for name in "qkv")
    kv = e.emit(ops.KvWrite, "kv_now", kv=kv, k=k, v=v)
    axes = {"Hi": ix.heads, "Di": ix.dim}
    turn = {}
    if a.rope:
        cos, sin = e.tables.names(a.rope)
        turn = {"cos": cos, "sin": sin, "style": a.rope.style}
    made = []
    for name, heads, slot, projection, norm in (
        ("iq", ix.heads, "Hi Di", ix.q, ix.q_norm),
        ("ik", 1, "Di", ix.k, ix.k_norm),
    ):
        x = e.linear(name, h, projection, (slot, "E"), axes)
        x = e.emit(ops.Heads, f"{name}h", x=x, n=heads)
        x = e.norm(f"{name}n", x, norm, ("Di",), axes)
        made.append(e.emit(ops.Rope, f"{name}r", x=x, **turn) if turn else x)
    index = e.state("index", TokenType(sizes=(ix.dim,)))
    index = e.emit(ops.TokenWrite, "index_now", kept=index, x=made[1])
    how = {"block": ix.block, "top_k": ix.top_k, "local": ix.local}
    selected = e.emit(ops.BlockSelect, "selected", q=made[0], index=index, **how)
    seen = {"selection": selected, "block": ix.block, "scale": a.scale}
    return str(e.emit(ops.BlockAttention, "ctx", q=q, kv=kv, **seen))
