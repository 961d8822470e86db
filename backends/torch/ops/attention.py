"""Attention: over the KV cache, with the cache write; and of all tokens at once.

A key in slot s is visible to the query in slot t when `start <= s <= t` and, with a
window, `t - s < window`. `start` is the first slot of a row that is not padding. A
padding query sees itself, so that its softmax is defined. With a `prefix`, slots
`start <= s < prefix` are visible to every query of the row; `learned` slots at the
beginning of the cache, which come from a prefix encoder, are visible in any case.
"""

import functools

import torch
import torch.nn.functional as F

from glmc.backends.torch.ops.norms import rms_norm
from glmc.backends.torch.ops.rope import rope
from glmc.backends.torch.ops.state import KvState, StateView


def kv_write(kv: KvState, k: torch.Tensor, v: torch.Tensor) -> KvState:
    """Writes `k` and `v` [B, T, K, D] into slots `past .. past + T` of the cache."""
    kv.write(kv.past, k.transpose(1, 2), v.transpose(1, 2))
    return kv


def attention(
    q: torch.Tensor,
    kv: KvState,
    *,
    prefix: torch.Tensor | None = None,
    slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    scale: float,
    window: int | None = None,
    learned: int = 0,
    chunk: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attends with queries [B, T, H, D] of the slots just written -> [B, T, H * Dv].

    H is a multiple of the K heads of the cache; query head h reads head h // (H / K).
    `prefix` int32 [B] is the slot after the part of each row that sees itself in both
    directions; it lies within the slots written so far. `slopes` and `sinks` [H] are
    `scored_attention`'s; `chunk` hides the slots before a query's own chunk.
    """
    end = kv.past + q.shape[1]
    # The oldest slot that the first of the T queries can see.
    begin = 0 if window is None else max(0, kv.past + 1 - window)
    if slopes is not None or sinks is not None or softcap or chunk:
        visible = visible_slots(kv, begin, end, window, prefix, learned, chunk)
        return scored_attention(
            q, kv, visible, slopes=slopes, sinks=sinks, scale=scale, softcap=softcap
        )
    keys, values = kv.read(begin, end, q.dtype)
    if q.shape[1] == 1:
        hidden = padding_slots(kv, begin, end, learned)
        return decode_attention(q, keys, values, hidden, scale=scale)
    mask = prefill_mask(kv, begin, end, window, prefix, learned)
    return prefill_attention(q, keys, values, mask, scale=scale)


def decode_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor | None,
    *,
    scale: float,
) -> torch.Tensor:
    """Attends with one query [B, 1, H, D] a row. The query heads of one K head form a
    matrix, so that the cache is read once and never repeated; softmax in fp32."""
    batch, kv_heads = keys.shape[:2]
    grouped = q.view(batch, kv_heads, -1, q.shape[-1])
    scores = torch.matmul(grouped, keys.transpose(-1, -2)) * scale
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None, None, :], -torch.inf)
    weights = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    return torch.matmul(weights, values).reshape(batch, 1, -1)


def sunk_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    sinks: torch.Tensor | None,
    *,
    scale: float,
) -> torch.Tensor:
    """Attends with queries [B, H, T, D] to `keys` and `values` [B, 1 or H, S, D] where
    `mask` [B, 1, T, S] is true -> [B, H, T, D]; softmax in fp32, which `sinks` [H], a
    logit of each head, share."""
    scores = torch.matmul(q, keys.transpose(-1, -2)).float() * scale
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        sink = sinks.float().view(-1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, sink), -1)
    weights = scores.softmax(-1)[..., : keys.shape[2]].to(values.dtype)
    return torch.matmul(weights, values)


def prefill_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scale: float,
) -> torch.Tensor:
    """Attends with many queries [B, T, H, D] a row; `mask` None means causal from slot
    0."""
    context = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q.shape[2] != keys.shape[1],
    )
    return context.transpose(1, 2).flatten(2)


def scored_attention(
    q: torch.Tensor,
    kv: KvState,
    visible: torch.Tensor,
    *,
    slopes: torch.Tensor | None,
    sinks: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Attends with scores that are changed before the softmax, all of it in fp32.

    `visible` [1 or B, 1, T, S] is over the last S slots up to the newest. Scores are
    capped softly; fall by `slopes` [H] for each slot between key and query (ALiBi,
    https://arxiv.org/abs/2108.12409); and share the softmax with `sinks` [H], a logit
    of each head that has no value.
    """
    batch, tokens, _, width = q.shape
    end = kv.past + tokens
    begin = end - visible.shape[-1]
    keys, values = (states[:, :, None] for states in kv.read(begin, end, q.dtype))
    shape = (kv.keys.shape[1], -1, 1, 1)
    grouped = q.view(batch, tokens, shape[0], -1, width).permute(0, 2, 3, 1, 4)
    scores = torch.matmul(grouped, keys.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if slopes is not None:
        slots = torch.arange(begin, end, device=q.device)
        distance = slots[kv.past - begin :, None] - slots
        scores = scores - slopes.view(shape) * distance
    scores = scores.masked_fill(~visible.unsqueeze(1), -torch.inf)
    if sinks is not None:
        sink = sinks.float().view(shape).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, sink), dim=-1)
    weights = scores.softmax(-1)[..., : end - begin].to(values.dtype)
    context = torch.matmul(weights, values)
    return context.permute(0, 3, 1, 2, 4).reshape(batch, tokens, -1)


def padding_slots(
    kv: StateView, begin: int, end: int, learned: int
) -> torch.Tensor | None:
    """Returns a mask [B, end - begin], true where a slot of `begin .. end` is padding;
    the slot of the newest token counts as real."""
    if kv.start is None:
        return None
    slots = torch.arange(begin, end, device=kv.start.device)
    return (slots >= learned) & (slots < kv.start.clamp(max=end - 1)[:, None])


def prefill_mask(
    kv: StateView,
    begin: int,
    end: int,
    window: int | None,
    prefix: torch.Tensor | None,
    learned: int,
) -> torch.Tensor | None:
    """Returns the visible slots [1 or B, 1, T, end - begin], or None where plain causal
    does."""
    windowed = window is not None and end > window
    if kv.past == 0 and kv.start is None and prefix is None and not windowed:
        return None
    return visible_slots(kv, begin, end, window, prefix, learned)


def visible_slots(
    kv: StateView,
    begin: int,
    end: int,
    window: int | None,
    prefix: torch.Tensor | None,
    learned: int,
    chunk: int | None = None,
) -> torch.Tensor:
    """Returns a mask [1 or B, 1, T, end - begin], true where a query of this step sees
    a slot."""
    device = kv.position.device
    slots = torch.arange(begin, end, device=device)
    queries = torch.arange(kv.past, end, device=device)[:, None]
    visible = (slots <= queries)[None]
    if window is not None:
        visible = visible & (queries - slots < window)
    if chunk is not None:
        first = 0 if kv.start is None else kv.start[:, None, None]
        visible = visible & ((slots - first) // chunk == (queries - first) // chunk)
    if prefix is not None:
        visible = visible | (slots < prefix[:, None, None])
    if kv.start is None:
        return visible[:, None]
    real = (slots < learned) | (slots >= kv.start[:, None, None])
    return ((visible & real) | (slots == queries))[:, None]


def pair_values(v: torch.Tensor) -> torch.Tensor:
    """Puts beside each head of `v` [B, T, K, D] the same one of the other half, first
    the first half's -> [B, T, K, 2 * D]."""
    pairs = torch.cat(v.chunk(2, 2), -1)
    return torch.cat((pairs, pairs), 2)


def difference(
    x: torch.Tensor,
    q1: torch.Tensor,
    k1: torch.Tensor,
    q2: torch.Tensor,
    k2: torch.Tensor,
    *,
    heads: int,
    init: float,
    eps: float,
) -> torch.Tensor:
    """Takes lambda times the second half of the heads of `x` [B, T, H * D] from the
    first half, normalises each head and multiplies by `1 - init` -> [B, T, H / 2 * D].

    lambda is `exp(q1 @ k1) - exp(q2 @ k2) + init`.
    """
    first, second = ((q * k).float().sum().exp() for q, k in ((q1, k1), (q2, k2)))
    share = first.to(x.dtype) - second.to(x.dtype) + init
    positive, negative = x.view(*x.shape[:2], heads, -1).chunk(2, 2)
    left = (positive - share * negative).float()
    length = torch.rsqrt(left.square().mean(-1, keepdim=True) + eps)
    return ((1 - init) * (left * length).to(x.dtype)).flatten(2)


def full_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    distances: torch.Tensor | None = None,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Attends to every token where `mask` bool [B, T] is true; None: to all.

    `q` [B, T, H, D], `k` [B, T, K, D] and `v` [B, T, K, Dv] -> [B, T, H * Dv]. With a
    `window` only to those less than so many slots from a query's own, which it sees in
    any case; `distances` fp32 [H, T, T] are added to the scores.
    """
    seen = None if mask is None else mask[:, None, None, :]
    if window is not None:
        slots = torch.arange(q.shape[1], device=q.device)
        apart = (slots - slots[:, None]).abs()
        near = apart < window
        seen = (near if seen is None else near & seen) | (apart == 0)
    if distances is not None:
        added = distances.to(q.dtype)[None]
        seen = added if seen is None else added.masked_fill(~seen, -torch.inf)
    context = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=seen,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return context.transpose(1, 2).flatten(2)


def qkv_attention(
    qkv: torch.Tensor,
    kv: KvState,
    *,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    q_norm: torch.Tensor | None = None,
    k_norm: torch.Tensor | None = None,
    prefix: torch.Tensor | None = None,
    slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    style: str = "half",
    sections: int = 1,
    eps: float = 0.0,
    weight_in: str = "input",
    unit_offset: bool = False,
    window: int | None = None,
    learned: int = 0,
    chunk: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Computes everything between the two linear maps of an attention layer.

    `qkv` [B, T, (heads + 2 * kv_heads) * head_dim], laid out q | k | v, is split;
    q and k are normed per head where `q_norm` and `k_norm` [head_dim] are given and
    rotated where `cos` and `sin` are; k and v enter the cache; the rest is
    `attention`'s. Returns [B, T, heads * head_dim].
    """
    states = qkv.view(*qkv.shape[:2], -1, head_dim)
    q, k, v = torch.split(states, [heads, kv_heads, kv_heads], dim=2)
    if q_norm is not None and k_norm is not None:
        norm = functools.partial(
            rms_norm, eps=eps, weight_in=weight_in, unit_offset=unit_offset
        )
        q, k = norm(q, q_norm), norm(k, k_norm)
    if cos is not None and sin is not None:
        q = rope(q, cos, sin, style=style, sections=sections)
        k = rope(k, cos, sin, style=style, sections=sections)
    return attention(
        q,
        kv_write(kv, k, v),
        prefix=prefix,
        slopes=slopes,
        sinks=sinks,
        scale=scale,
        window=window,
        learned=learned,
        chunk=chunk,
        softcap=softcap,
    )
