"""Lower attention with caches of several rates: a window of tokens, pooled entries."""

from typing import Any

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Axes, Emitter
from glmc.ir.state import RowType, TokenType


def pooled_attention(e: Emitter, h: str, a: m.PooledAttention) -> str:
    """Emit queries, the vector that is kept of each token, entries, attention, and the
    two output projections."""
    axes, turn = _axes(a), _turn(e, a)
    down = e.linear("q_a", h, a.q_a, ("Lq", "E"), axes)
    latent = e.norm("q_latent", down, a.q_norm, ("Lq",), axes)
    q = e.linear("q", latent, a.q, ("H D", "Lq"), axes)
    q = e.emit(ops.Heads, "qh", x=q, n=a.heads)
    if a.head_norm:
        q = e.norm("qn", q, a.head_norm, ("D",), axes)
    q = e.emit(ops.Rope, "qr", x=q, **turn)
    fields: dict[str, Any] = {"q": q, "kv": _write(e, h, a, axes, turn)}
    fields |= {"scale": a.scale, "window": a.window}
    if a.sinks:
        fields["sinks"] = e.weight(a.sinks, ("H",), axes)
    if a.pool:
        fields["entries"] = _entries(e, h, a.pool, a.rope, a.head_dim, "")
    if a.indexer:
        fields["selection"] = _select(e, h, a, a.indexer, latent)
    context = e.emit(ops.PooledAttention, "ctx", **fields)
    context = e.emit(ops.Heads, "ctxh", x=context, n=a.heads)
    context = e.emit(ops.Rope, "ctxr", x=context, **turn, reverse=True)
    weight = e.weight(a.o_a, ("Go", "Lo", "Gi"), axes)
    low = e.emit(ops.GroupedLinear, "o_low", x=context, weight=weight)
    return e.linear("attn", low, a.o, ("E", "Go Lo"), axes)


def _axes(a: m.PooledAttention) -> Axes:
    sizes = {"H": a.heads, "D": a.head_dim, "Lq": a.q_rank, "Lo": a.o_rank}
    return sizes | {"Go": a.groups, "Gi": a.heads * a.head_dim // a.groups}


def _turn(e: Emitter, a: m.PooledAttention) -> dict[str, Any]:
    """Return the fields of a rope on the last channels of the attention's heads."""
    cos, sin = e.tables.names(a.rope)
    first = a.head_dim - a.rope.dim
    return {"cos": cos, "sin": sin, "style": a.rope.style, "first": first}


def _write(
    e: Emitter, h: str, a: m.PooledAttention, axes: Axes, turn: dict[str, Any]
) -> str:
    """Emit the vector of each token, and its write."""
    x = e.linear("kv_low", h, a.kv, ("D", "E"), axes)
    x = e.norm("kvn", x, a.kv_norm, ("D",), axes)
    x = e.emit(ops.Heads, "kvh", x=x, n=1)
    x = e.emit(ops.Rope, "kvr", x=x, **turn)
    kept = e.state("kv", TokenType(sizes=(a.head_dim,)))
    return str(e.emit(ops.TokenWrite, "kv_now", kept=kept, x=x))


def _entries(
    e: Emitter, h: str, pool: m.Pool, rope: m.Rope, dim: int, mark: str
) -> str:
    """Emit the entries of the windows that this call completes, and their write."""
    wide = dim * (1 + pool.overlap)
    axes = {"Dp": wide, "D": dim, "Ev": pool.every}
    values = e.linear(f"{mark}values", h, pool.values, ("Dp", "E"), axes)
    gates = e.linear(f"{mark}gates", h, pool.gates, ("Dp", "E"), axes)
    bias = e.weight(pool.places, ("Ev", "Dp"), axes, dtype="f32")
    rows = pool.every * (1 + pool.overlap)
    pending = e.state(f"{mark}pending", RowType(sizes=(rows, 2 * wide)))
    fields = {"x": values, "gates": gates, "bias": bias, "pending": pending}
    how = {"every": pool.every, "overlap": pool.overlap}
    names = (f"{mark}pooled", f"{mark}at", f"{mark}pending_now")
    x, at, _ = e.emit(ops.PoolTokens, *names, **fields, **how)
    x = e.norm(f"{mark}pooledn", x, pool.norm, ("D",), axes)
    x = e.emit(ops.Heads, f"{mark}pooledh", x=x, n=1)
    cos, sin = e.tables.table(e, rope, at, (f"{mark}cos_at", f"{mark}sin_at"))
    turn = {"cos": cos, "sin": sin, "style": rope.style, "first": dim - rope.dim}
    x = e.emit(ops.Rope, f"{mark}pooledr", x=x, **turn)
    kept = e.state(f"{mark}entries", TokenType(sizes=(dim,), every=pool.every))
    made = {"entries": kept, "x": x, "at": at}
    return str(e.emit(ops.PoolWrite, f"{mark}entries_now", **made))


def _select(
    e: Emitter, h: str, a: m.PooledAttention, ix: m.PoolIndexer, latent: str
) -> str:
    """Emit an indexer with entries of its own; return its selection."""
    axes = {"Hi": ix.heads, "Di": ix.dim, "Lq": a.q_rank}
    q = e.linear("iq", latent, ix.q, ("Hi Di", "Lq"), axes)
    q = e.emit(ops.Heads, "iqh", x=q, n=ix.heads)
    turn = {**_turn(e, a), "first": ix.dim - a.rope.dim}
    q = e.emit(ops.Rope, "iqr", x=q, **turn)
    entries = _entries(e, h, ix.pool, a.rope, ix.dim, "i")
    weight = e.weight(ix.weights, ("Hi", "E"), axes, dtype="f32")
    wanted = {"top_k": ix.top_k, "scale": ix.dim**-0.5}
    fields = {"q": q, "x": h, "entries": entries, "weight": weight, **wanted}
    return str(e.emit(ops.PoolSelect, "selected", **fields))
