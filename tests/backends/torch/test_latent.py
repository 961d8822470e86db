"""Latent attention: the latents expanded, and the query absorbed, are the same."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import PerToken
from glmc.backends.torch import ops

HEADS, NOPE, TURNED, VALUE, RANK, SCALE = 3, 5, 4, 6, 8, 0.3


def cache(past: int, tokens: int, start: list[int] | None = None) -> Cache:
    """A cache of random latents, those of this call included; NaN after them."""
    kept = {"latents": PerToken(RANK + TURNED)}
    made = Cache([kept], 2, past + tokens + 3, torch.float32, "cpu")
    slots = made.own[0].slots
    slots.fill_(torch.nan)
    slots[:, : past + tokens].normal_()
    made.length = past
    made.start = None if start is None else torch.tensor(start, dtype=torch.int32)
    return made


def operands(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, kv_b and its bias."""
    rows = HEADS * (NOPE + VALUE)
    q = torch.randn(2, tokens, HEADS, NOPE + TURNED)
    return q, torch.randn(rows, RANK), torch.randn(rows)


def plain(
    q: torch.Tensor,
    slots: torch.Tensor,
    kv_b: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """One query [H, nope + r] over some slots [S, R + r], by the definition."""
    up = functional.linear(slots[:, :RANK], kv_b, bias).view(-1, HEADS, NOPE + VALUE)
    shared = slots[:, None, RANK:].expand(-1, HEADS, -1)
    keys = torch.cat((up[..., :NOPE], shared), -1)
    weights = (torch.einsum("hd,shd->hs", q, keys) * SCALE).softmax(-1)
    return torch.einsum("hs,shv->hv", weights, up[..., NOPE:]).flatten()


@pytest.mark.parametrize("start", [None, [0, 3]])
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("selects", [False, True])
def test_the_definition(
    start: list[int] | None, tokens: int, biased: bool, selects: bool
) -> None:
    torch.manual_seed(0)
    kv = cache(4, tokens, start)
    q, kv_b, bias = operands(tokens)
    selection = torch.randint(0, 4 + tokens, (2, tokens, 6 if selects else 0))
    if selects:
        selection[..., 0] = torch.arange(4, 4 + tokens)
    given = {"bias": bias} if biased else {}
    layer = kv.own[0]
    got = ops.latent_attention(
        q, layer, kv_b, **given, selection=selection, scale=SCALE
    )
    for row in range(2):
        for token in range(tokens):
            slots = set(range(start[row] if start else 0, 5 + token))
            if selects:
                slots &= {int(slot) for slot in selection[row, token]}
            seen = layer.slots[row, sorted(slots)]
            want = plain(q[row, token], seen, kv_b, bias if biased else None)
            torch.testing.assert_close(got[row, token], want)


@pytest.mark.parametrize("start", [None, [0, 3]])
@pytest.mark.parametrize("tokens", [1, 5])
def test_a_window(start: list[int] | None, tokens: int) -> None:
    torch.manual_seed(0)
    kv = cache(4, tokens, start)
    q, kv_b, _ = operands(tokens)
    layer = kv.own[0]
    got = ops.latent_attention(q, layer, kv_b, scale=SCALE, window=3)
    for row in range(2):
        for token in range(tokens):
            first = max(start[row] if start else 0, token + 2)
            want = plain(q[row, token], layer.slots[row, first : 5 + token], kv_b, None)
            torch.testing.assert_close(got[row, token], want)


def test_a_prompt_is_the_same_token_by_token() -> None:
    torch.manual_seed(0)
    q, kv_b, _ = operands(5)
    latent, shared = torch.randn(2, 5, RANK), torch.randn(2, 5, 1, TURNED)
    whole, each = cache(2, 5), cache(2, 5)
    each.own[0].slots[:, :2] = whole.own[0].slots[:, :2]
    ops.latent_write(whole.own[0], latent, shared)
    want = ops.latent_attention(q, whole.own[0], kv_b, scale=SCALE)
    for token in range(5):
        at = slice(token, token + 1)
        ops.latent_write(each.own[0], latent[:, at], shared[:, at])
        got = ops.latent_attention(q[:, at], each.own[0], kv_b, scale=SCALE)
        torch.testing.assert_close(got, want[:, at])
        each.advance(1)


def test_latents_lie_before_the_shared_keys() -> None:
    kv = cache(2, 3)
    latent, shared = torch.randn(2, 3, RANK), torch.randn(2, 3, 1, TURNED)
    ops.latent_write(kv.own[0], latent, shared)
    assert torch.equal(kv.own[0].slots[:, 2:5, :RANK], latent)
    assert torch.equal(kv.own[0].slots[:, 2:5, RANK:], shared.squeeze(2))


def test_a_padding_query_sees_itself() -> None:
    kv = cache(0, 6, [0, 4])
    q, kv_b, _ = operands(6)
    got = ops.latent_attention(q, kv.own[0], kv_b, scale=SCALE)
    assert torch.isfinite(got).all()
