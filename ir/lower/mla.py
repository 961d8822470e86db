"""Lower multi-head latent attention, whose cache holds latents."""

from typing import Any

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Axes, Emitter
from glmc.ir.state import TokenType

SELECTION = "selection"
"""The value that hands an indexer's selection to the layers that share it."""


def mla(e: Emitter, h: str, a: m.Mla) -> str:
    """Emit the down projections, rope on the shared key, latent attention, the output
    projection."""
    axes = _axes(a)
    turn: dict[str, Any] = {}
    if a.rope:
        cos, sin = e.tables.names(a.rope)
        turn = {"cos": cos, "sin": sin, "style": a.rope.style}
    latent, read = _query_latent(e, h, a, axes)
    slot = "Lqq" if a.q_reads == "both" else "Lq" if a.q_rank else "E"
    q = e.linear("q", read, a.q, ("H D", slot), axes)
    q = e.emit(ops.Heads, "qh", x=q, n=a.heads)
    if turn:
        q = e.emit(ops.Rope, "qr", x=q, **turn, first=a.nope)
    if a.q_scale:
        q = e.emit(ops.ScaleHeads, "qs", x=q, scale=e.tables.query_scale(a.q_scale))
    latents = _write(e, h, a, axes, turn)
    context = _attend(e, h, a, q, latents, latent, turn)
    if a.gate:
        x, last = (h, "E") if a.gate.reads == "hidden" else (read, slot)
        width = "H" if a.gate.width == "head" else "H Dv"
        gate = e.linear("attn_gate", x, a.gate.projection, (width, last), axes)
        context = str(e.emit(ops.Gate, "gated", x=context, g=gate, fn=a.gate.act))
    return e.linear("attn", context, a.o, ("E", "H Dv"), axes)


def _axes(a: m.Mla) -> Axes:
    sizes = {"H": a.heads, "D": a.head_dim, "Dv": a.v_dim, "Dkv": a.nope + a.v_dim}
    rank, turned = a.q_rank or 0, a.shared_dim
    sizes |= {"Lq": rank, "Lqq": 2 * rank, "Dr": turned}
    sizes |= {"Lkv": a.kv_rank, "Akv": a.kv_rank + turned}
    if isinstance(a.indexer, m.Indexer):
        sizes |= {"Hi": a.indexer.heads, "Di": a.indexer.dim}
    return sizes


def _query_latent(e: Emitter, h: str, a: m.Mla, axes: Axes) -> tuple[str, str]:
    """Emit the query latent; return it normed, and what the query projection reads."""
    if not (a.q_a and a.q_norm):
        return h, h
    down = e.linear("q_a", h, a.q_a, ("Lq", "E"), axes)
    latent = e.norm("q_latent", down, a.q_norm, ("Lq",), axes)
    if a.q_reads == "normed":
        return latent, latent
    return latent, str(e.emit(ops.Concat, "q_both", x=latent, y=down))


def _write(e: Emitter, h: str, a: m.Mla, axes: Axes, turn: dict[str, Any]) -> str:
    """Emit the latent and the shared key of each token, and their cache write."""
    down = e.linear("kv_a", h, a.kv_a, ("Akv", "E"), axes)
    sizes = (a.kv_rank, a.shared_dim)
    low, shared = e.emit(ops.Split, "kv_low", "k_shared", x=down, sizes=sizes)
    latent = e.norm("kv_latent", low, a.kv_norm, ("Lkv",), axes)
    if a.kv_scale != 1.0:
        latent = e.emit(ops.Scale, "kv_scaled", x=latent, factor=a.kv_scale)
    if a.k_norm:
        shared = e.norm("k_sharedn", shared, a.k_norm, ("Dr",), axes)
    shared = e.emit(ops.Heads, "k_sharedh", x=shared, n=1)
    if turn:
        shared = e.emit(ops.Rope, "k_sharedr", x=shared, **turn)
    kept = e.state("latents", TokenType(sizes=(sum(sizes),)))
    made = {"latents": kept, "latent": latent, "shared": shared}
    return str(e.emit(ops.LatentWrite, "latents_now", **made))


def _attend(
    e: Emitter,
    h: str,
    a: m.Mla,
    q: str,
    latents: str,
    latent: str,
    turn: dict[str, Any],
) -> str:
    """Emit attention over all cached latents, or over those an indexer selects."""
    axes, selection = _axes(a), None
    if a.indexer == "shared":
        selection = e.carried[SELECTION]
    elif a.indexer:
        selection = _select(e, h, a, a.indexer, latent, turn)
    if selection and SELECTION in e.carried:
        e.carried[SELECTION] = selection
    slot = ("H Dkv", "Lkv")
    kv_b = e.weight(a.kv_b.weight, slot, axes)
    bias = e.bias(kv_b, a.kv_b.bias, slot[:1], axes)
    fields = {"kv_b": kv_b, "bias": bias, "selection": selection, "scale": a.scale}
    fields["window"] = a.window
    fields["sinks"] = e.weight(a.sinks, ("H",), axes) if a.sinks else None
    return str(e.emit(ops.LatentAttention, "ctx", q=q, latents=latents, **fields))


def _select(
    e: Emitter,
    h: str,
    a: m.Mla,
    ix: m.Indexer,
    latent: str,
    turn: dict[str, Any],
) -> str:
    """Emit an indexer with a key cache of its own; return its selection."""
    axes = _axes(a)
    if a.rope:
        turn = {**turn, "style": ix.style}
        turn |= {"first": ix.dim - a.rope.dim} if ix.turns == "last" else {}
    q = e.linear("iq", latent, ix.q, ("Hi Di", "Lq"), axes)
    q = e.emit(ops.Heads, "iqh", x=q, n=ix.heads)
    q = e.emit(ops.Rope, "iqr", x=q, **turn) if turn else q
    k = e.linear("ik", h, ix.k, ("Di", "E"), axes)
    k = e.norm("ikn", k, ix.k_norm, ("Di",), axes)
    k = e.emit(ops.Heads, "ikh", x=k, n=1)
    k = e.emit(ops.Rope, "ikr", x=k, **turn) if turn else k
    index = e.state("index", TokenType(sizes=(ix.dim,)))
    index = e.emit(ops.TokenWrite, "index_now", kept=index, x=k)
    weight = e.weight(ix.weights, ("Hi", "E"), axes, dtype="f32")
    wanted = {"top_k": ix.top_k, "scale": ix.dim**-0.5}
    fields = {"q": q, "x": h, "index": index, "weight": weight, **wanted}
    return str(e.emit(ops.IndexSelect, "selected", **fields))
