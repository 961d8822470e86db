"""Latent attention: over cached latents, of which keys and values are made.

The `slots` [B, capacity, R + r] hold a latent, R wide, and then the rotated key that
all heads share. A weight `kv_b`, of shape [H * (nope + v), R], makes a head's key and
value of a latent. A selection is int64 [B, T, N], N slots for each query; an empty one
(N = 0) stands for all slots.
"""

import torch
import torch.nn.functional as F

from glmc.backends.torch.ops.attention import (
    decode_attention,
    padding_slots,
    prefill_attention,
    prefill_mask,
    sunk_attention,
    visible_slots,
)
from glmc.backends.torch.ops.sparse import visible
from glmc.backends.torch.ops.state import StateView, TokenState


def latent_write(
    latents: TokenState, latent: torch.Tensor, shared: torch.Tensor
) -> TokenState:
    """Writes `latent` [B, T, R] and `shared` keys [B, T, 1, r] into slots
    `past .. past + T`."""
    slots = latents.slots[:, latents.past : latents.past + latent.shape[1]]
    slots.copy_(torch.cat((latent, shared.flatten(2)), dim=-1))
    return latents


def latent_attention(
    q: torch.Tensor,
    latents: TokenState,
    kv_b: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    selection: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Attends with queries [B, T, H, nope + r] of the slots just written ->
    [B, T, H * v].

    They see the slots up to their own, those of `selection` only where it
    names some, with a `window` only so many. A single query is
    `absorbed_attention`'s, many are `expanded_attention`'s. `bias`
    [H * (nope + v)] is that of `kv_b`; `sinks` [H] are `sunk_attention`'s.
    """
    heads, end = q.shape[2], latents.past + q.shape[1]
    # The oldest slot that the first of the T queries can see.
    begin = 0 if window is None else max(0, latents.past + 1 - window)
    slots = latents.slots[:, begin:end]
    nope = q.shape[-1] - slots.shape[-1] + kv_b.shape[1]
    seen = None
    if selection is not None and selection.shape[-1]:
        seen = selected_slots(latents, selection)
    if q.shape[1] > 1:
        if seen is not None:
            mask: torch.Tensor | None = seen[:, None]
        elif sinks is not None:
            mask = visible_slots(latents, begin, end, window, None, 0)
        else:
            mask = prefill_mask(latents, begin, end, window, None, 0)
        up = F.linear(slots[..., : kv_b.shape[1]], kv_b, bias)
        return expanded_attention(q, slots, up, nope, mask, sinks, scale=scale)
    hidden = padding_slots(latents, begin, end, 0) if seen is None else ~seen[:, 0]
    weight = kv_b.view(heads, -1, kv_b.shape[1])
    context = absorbed_attention(q, slots, weight, nope, hidden, sinks, scale=scale)
    if bias is not None:
        # That of the keys adds the same to every score of a query.
        context = context + bias.view(heads, -1)[:, nope:]
    return context.flatten(2)


def selected_slots(latents: StateView, selection: torch.Tensor) -> torch.Tensor:
    """Returns a mask [B, T, past + T], true where a query sees a slot of its
    selection."""
    batch, tokens = selection.shape[:2]
    shape = (batch, tokens, latents.past + tokens)
    seen = torch.zeros(shape, dtype=torch.bool, device=selection.device)
    return seen.scatter_(-1, selection, True) & visible(latents, tokens)


def expanded_attention(
    q: torch.Tensor,
    slots: torch.Tensor,
    up: torch.Tensor,
    nope: int,
    mask: torch.Tensor | None,
    sinks: torch.Tensor | None,
    *,
    scale: float,
) -> torch.Tensor:
    """Attends to keys and values of every head: `up` [B, S, H * (nope + v)] has them,
    but for the keys' last channels, which are those of `slots` [B, S, R + r]."""
    parts = up.view(*up.shape[:2], q.shape[2], -1)
    turned = slots[..., None, slots.shape[-1] - (q.shape[-1] - nope) :]
    shared = turned.expand(*parts.shape[:3], -1)
    keys = torch.cat((parts[..., :nope], shared), dim=-1).transpose(1, 2)
    values = parts[..., nope:].transpose(1, 2)
    if sinks is None or mask is None:
        return prefill_attention(q, keys, values, mask, scale=scale)
    context = sunk_attention(q.transpose(1, 2), keys, values, mask, sinks, scale=scale)
    return context.transpose(1, 2).flatten(2)


def absorbed_attention(
    q: torch.Tensor,
    slots: torch.Tensor,
    weight: torch.Tensor,
    nope: int,
    hidden: torch.Tensor | None,
    sinks: torch.Tensor | None,
    *,
    scale: float,
) -> torch.Tensor:
    """Attends with one query [B, 1, H, nope + r] a row, which the key rows of `weight`
    [H, nope + v, R] take to the latents of `slots`; its other rows make the context
    [B, 1, H, v].

    All heads attend to the same slots, whose first R channels are keys and values.
    """
    rank = weight.shape[-1]
    rows = q[:, 0].transpose(0, 1)
    latent = torch.matmul(rows[..., :nope], weight[:, :nope])
    states = torch.cat((latent, rows[..., nope:]), dim=-1).transpose(0, 1)
    keys = slots[:, None]
    if sinks is None:
        context = decode_attention(
            states[:, None].contiguous(), keys, keys[..., :rank], hidden, scale=scale
        )
    else:
        shape = len(slots), slots.shape[1]
        seen = slots.new_ones(shape, dtype=torch.bool) if hidden is None else ~hidden
        mask = seen.view(-1, 1, 1, shape[1])
        values = keys[..., :rank]
        context = sunk_attention(
            states[:, :, None], keys, values, mask, sinks, scale=scale
        )
    mixed = context.view(-1, *weight.shape[::2]).transpose(0, 1)
    values = torch.matmul(mixed, weight[:, nope:].transpose(1, 2))
    return values.transpose(0, 1)[:, None]
