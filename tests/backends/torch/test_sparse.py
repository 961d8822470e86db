"""Sparse attention: what an indexer selects, and attention over it."""

from __future__ import annotations

import pytest
import torch

from glmc.backends.runtime.cache import Cache
from glmc.backends.torch import ops
from glmc.backends.torch.ops import sparse

HEADS, DIM, WIDTH, KEY, VALUE = 3, 8, 12, 16, 10


def cache(past: int, tokens: int, start: list[int] | None = None) -> Cache:
    """A cache of random slots, those of this call included."""
    made = Cache([(2, KEY, VALUE, DIM)], 2, past + tokens + 3, torch.float32, "cpu")
    for states in (made.layers[0].keys, made.layers[0].values, made.layers[0].index):
        states.normal_()
    made.length = past
    made.start = None if start is None else torch.tensor(start, dtype=torch.int32)
    return made


def select(kv: Cache, tokens: int, top_k: int) -> torch.Tensor:
    torch.manual_seed(1)
    q, x = torch.randn(2, tokens, HEADS, DIM), torch.randn(2, tokens, WIDTH)
    weight = torch.randn(HEADS, WIDTH)
    return ops.index_select(q, x, kv.layers[0], weight, top_k=top_k, scale=0.3)


def test_nothing_is_selected_while_all_fits() -> None:
    assert select(cache(2, 4), 4, 6).shape == (2, 4, 0)
    assert select(cache(2, 4), 4, 5).shape == (2, 4, 5)


def test_long_prompts_are_scored_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    kv = cache(3, 9)
    whole = select(kv, 9, 4)
    monkeypatch.setattr(sparse, "SCORES", 2 * HEADS * 12 * 2)
    assert torch.equal(select(kv, 9, 4), whole)


@pytest.mark.parametrize("start", [None, [0, 3]])
@pytest.mark.parametrize("tokens", [1, 5])
def test_attention_over_a_selection(tokens: int, start: list[int] | None) -> None:
    """Equals softmax over the selected slots that are visible anyway."""
    torch.manual_seed(0)
    kv = cache(4, tokens, start)
    q = torch.randn(2, tokens, 2, KEY)
    selection = torch.randint(0, 4 + tokens, (2, tokens, 6))
    selection[..., 0] = torch.arange(4, 4 + tokens)
    layer = kv.layers[0]
    got = ops.sparse_attention(q, layer, selection, scale=0.2)
    seen = ops.sparse_attention(q, layer, selection[..., :0], scale=0.2)
    assert torch.equal(seen, ops.attention(q, layer, scale=0.2))
    for row in range(2):
        for token in range(tokens):
            first = start[row] if start else 0
            slots = {int(s) for s in selection[row, token]}
            slots = {s for s in slots if first <= s <= 4 + token}
            at = torch.tensor(sorted(slots))
            scores = layer.keys[row][:, at] @ q[row, token].unsqueeze(-1) * 0.2
            want = (scores.softmax(1) * layer.values[row][:, at]).sum(1)
            torch.testing.assert_close(got[row, token], want.flatten())


def test_a_padding_query_sees_itself() -> None:
    kv = cache(0, 6, [0, 4])
    chosen = select(kv, 6, 2)
    q = torch.randn(2, 6, 2, KEY)
    got = ops.sparse_attention(q, kv.layers[0], chosen, scale=0.2)
    assert torch.isfinite(got).all()


def test_heads_are_joined_with_one_that_all_share() -> None:
    x, y = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 1, 2)
    joined = ops.join_heads(x, y)
    assert torch.equal(joined[..., :5], x)
    assert torch.equal(joined[..., 2, 5:], y[:, :, 0])


def test_rope_from_a_channel_on() -> None:
    x = torch.randn(1, 3, 2, 10)
    cos, sin = ops.rope_table(torch.arange(3)[None], dim=4, theta=100.0)
    turned = ops.rope(x, cos, sin, style="interleaved", first=6)
    assert torch.equal(turned[..., :6], x[..., :6])
    alone = ops.rope(x[..., 6:], cos, sin, style="interleaved")
    assert torch.equal(turned[..., 6:], alone)
