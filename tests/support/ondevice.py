"""Attention that asks the host for nothing, so that a decode step can be recorded."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from glmc.backends.torch import ops as reference
from glmc.backends.torch.ops.attention import decode_attention
from glmc.backends.torch.ops.rope import rope


def attend(q: torch.Tensor, kv: Any, length: torch.Tensor, scale: float) -> Any:
    """Decode attention over all slots of the cache, of which `length` are filled."""
    slots = torch.arange(kv.keys.shape[2])
    hidden = (slots >= length)[None]
    if kv.start is not None:
        hidden = hidden | (slots < kv.start[:, None])
    hidden = hidden.expand(len(q), -1)
    # What nothing was written to may be nan, and nan times 0 is.
    values = kv.values.masked_fill(hidden[:, None, :, None], 0.0)
    return decode_attention(q, kv.keys, values, hidden, scale=scale)


def kv_write(kv: Any, k: torch.Tensor, v: torch.Tensor) -> Any:
    """Writes the keys and values of one token where the device says."""
    if k.shape[1] > 1:
        return reference.kv_write(kv, k, v)
    for slots, new in ((kv.keys, k), (kv.values, v)):
        slots.index_copy_(2, kv.position.long(), new.transpose(1, 2))
    return kv


def attention(q: torch.Tensor, kv: Any, *, scale: float) -> torch.Tensor:
    """attention that takes from the device how far the cache is filled."""
    if q.shape[1] > 1:
        return reference.attention(q, kv, scale=scale)
    attended: torch.Tensor = attend(q, kv, kv.position + 1, scale)
    return attended


def qkv_attention(
    qkv: torch.Tensor,
    kv: Any,
    *,
    cos: torch.Tensor,
    sin: torch.Tensor,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    style: str = "half",
) -> torch.Tensor:
    """The same of qkv_attention."""
    states = qkv.view(*qkv.shape[:2], -1, head_dim)
    q, k, v = torch.split(states, [heads, kv_heads, kv_heads], dim=2)
    q, k = (rope(part, cos, sin, style=style) for part in (q, k))
    return attention(q, kv_write(kv, k, v), scale=scale)


def operations(module: ModuleType = reference, **others: Any) -> Any:
    """The ops of a module, with attention that can be recorded."""
    own = {"kv_write": kv_write, "attention": attention, "qkv_attention": qkv_attention}
    return SimpleNamespace(**(vars(module) | own | others))
