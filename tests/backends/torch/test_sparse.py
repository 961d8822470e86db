"""Sparse attention: what an indexer selects."""

from __future__ import annotations

import pytest
import torch

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import PerToken
from glmc.backends.torch import ops
from glmc.backends.torch.ops import sparse

HEADS, DIM, WIDTH = 3, 8, 12


def cache(past: int, tokens: int, start: list[int] | None = None) -> Cache:
    """Random keys of an indexer, those of this call included."""
    kept = {"index": PerToken(DIM)}
    made = Cache([kept], 2, past + tokens + 3, torch.float32, "cpu")
    made.own[0].slots.normal_()
    made.length = past
    made.start = None if start is None else torch.tensor(start, dtype=torch.int32)
    return made


def select(kv: Cache, tokens: int, top_k: int) -> torch.Tensor:
    torch.manual_seed(1)
    q, x = torch.randn(2, tokens, HEADS, DIM), torch.randn(2, tokens, WIDTH)
    weight = torch.randn(HEADS, WIDTH)
    return ops.index_select(q, x, kv.own[0], weight, top_k=top_k, scale=0.3)


def test_nothing_is_selected_while_all_fits() -> None:
    assert select(cache(2, 4), 4, 6).shape == (2, 4, 0)
    assert select(cache(2, 4), 4, 5).shape == (2, 4, 5)


def test_long_prompts_are_scored_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    kv = cache(3, 9)
    whole = select(kv, 9, 4)
    monkeypatch.setattr(sparse, "SCORES", 2 * HEADS * 12 * 2)
    assert torch.equal(select(kv, 9, 4), whole)


def test_rope_from_a_channel_on() -> None:
    x = torch.randn(1, 3, 2, 10)
    cos, sin = ops.rope_table(torch.arange(3)[None], dim=4, theta=100.0)
    turned = ops.rope(x, cos, sin, style="interleaved", first=6)
    assert torch.equal(turned[..., :6], x[..., :6])
    alone = ops.rope(x[..., 6:], cos, sin, style="interleaved")
    assert torch.equal(turned[..., 6:], alone)
