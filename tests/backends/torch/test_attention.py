"""Attention over the cache against a dense softmax written out here."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import KeysValues
from glmc.backends.torch import ops

HEADS, DIM, TOTAL = 4, 16, 13
SCALE = 1 / math.sqrt(DIM)
SCHEDULES = [(13,), (5, 8), (7, 1, 1, 4), (1,) * 13]


def inputs(kv_heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k, v of a batch of two."""
    generator = torch.Generator().manual_seed(kv_heads)
    counts = (HEADS, kv_heads, kv_heads)
    shapes = [(2, TOTAL, n, DIM) for n in counts]
    return [torch.randn(*s, generator=generator).to(dtype) for s in shapes]


def visible(t: int, s: int, start: int, window: int | None) -> bool:
    return start <= s <= t and (window is None or t - s < window)


def oracle(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    starts: list[int],
    window: int | None,
) -> torch.Tensor:
    """[B, T, H, D] in fp64; a padding query sees itself."""
    out = torch.empty(q.shape, dtype=torch.float64)
    group = q.shape[2] // k.shape[2]
    places = itertools.product(range(q.shape[0]), range(q.shape[1]), range(HEADS))
    for b, t, h in places:
        seen = [s for s in range(t + 1) if visible(t, s, starts[b], window)]
        keys, values = (x[b, seen or [t], h // group].double() for x in (k, v))
        weights = (keys @ q[b, t, h].double() * SCALE).softmax(0)
        out[b, t, h] = weights @ values
    return out


def poisoned_cache(kv_heads: int, dtype: torch.dtype, starts: list[int]) -> Cache:
    """A cache whose unwritten slots would be noticed."""
    cache = Cache([{"kv": KeysValues(kv_heads, DIM, DIM)}], 2, TOTAL + 3, dtype, "cpu")
    cache.own[0].keys.fill_(torch.nan)
    cache.own[0].values.fill_(torch.nan)
    if any(starts):
        cache.start = torch.tensor(starts, dtype=torch.int32)
    return cache


def attend(
    qkv: list[torch.Tensor],
    schedule: tuple[int, ...],
    starts: list[int],
    window: int | None,
    **more: Any,
) -> torch.Tensor:
    cache = poisoned_cache(qkv[1].shape[2], qkv[0].dtype, starts)
    outs = []
    for parts in zip(*(x.split(schedule, dim=1) for x in qkv), strict=True):
        q, k, v = parts
        kv = ops.kv_write(cache.own[0], k, v)
        outs.append(ops.attention(q, kv, scale=SCALE, window=window, **more))
        cache.advance(q.shape[1])
    return torch.cat(outs, dim=1).view(qkv[0].shape)


def error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference; NaN for NaN."""
    return float((out.double() - expected).abs().max())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("starts", [[0, 0], [0, 4], [6, 2]], ids=str)
@pytest.mark.parametrize("window", [None, 1, 3, 7, 13, 50])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_equals_dense_softmax(
    kv_heads: int, window: int | None, starts: list[int], schedule: tuple[int, ...]
) -> None:
    qkv = inputs(kv_heads, torch.float32)
    out = attend(qkv, schedule, starts, window)
    assert error(out, oracle(*qkv, starts, window)) < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("schedule", [(13,), (7, 1, 1, 4)], ids=str)
def test_attention_in_low_precision(
    dtype: torch.dtype, schedule: tuple[int, ...]
) -> None:
    qkv = inputs(2, dtype)
    out = attend(qkv, schedule, [0, 4], None)
    assert out.dtype == dtype
    assert error(out, oracle(*qkv, [0, 4], None)) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("planted", ["window", "start", "heads"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_control_mistakes_are_seen(planted: str, schedule: tuple[int, ...]) -> None:
    q, k, v = inputs(2, torch.float32)
    starts, window = [0, 4], 5
    expected = oracle(q, k, v, starts, window)
    if planted == "heads":
        k, v = k.flip(2), v.flip(2)
    off = 1 if planted == "start" else 0
    longer = window + 1 if planted == "window" else window
    out = attend([q, k, v], schedule, [start + off for start in starts], longer)
    assert error(out, expected) > 1e-2


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: Any) -> Any:
    """[B, T, H, D] in fp64 with what is seen given as [B, T, T]."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2) * SCALE).masked_fill(~seen[:, None], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("schedule", [(13,), (11, 1, 1), (11, 2)], ids=str)
@pytest.mark.parametrize("bounds", [[9, 4], [11, 1]], ids=str)
@pytest.mark.parametrize("learned", [0, 2])
@pytest.mark.parametrize("starts", [[2, 2], [2, 5]], ids=str)
def test_a_prefix_sees_itself_and_learned_slots_are_seen(
    starts: list[int], learned: int, bounds: list[int], schedule: tuple[int, ...]
) -> None:
    bounds = [max(pair) for pair in zip(bounds, starts, strict=True)]
    own, slots = torch.arange(TOTAL)[:, None], torch.arange(TOTAL)
    begin, bound = (torch.tensor(x)[:, None, None] for x in (starts, bounds))
    seen = (slots < learned) | ((slots >= begin) & ((slots <= own) | (slots < bound)))
    real = slots >= begin[..., 0]
    prefix = torch.tensor(bounds, dtype=torch.int32)
    qkv = inputs(4, torch.float32)
    out = attend(qkv, schedule, starts, None, prefix=prefix, learned=learned)
    expected = masked(*qkv, seen)
    assert error(out[real], expected[real]) < 2e-6
    # The control: without the one or the other it shows.
    if learned:
        wrong = attend(qkv, schedule, starts, None, prefix=prefix)
        assert error(wrong[real], expected[real]) > 1e-2
    if bounds != starts:
        wrong = attend(qkv, schedule, starts, None, learned=learned)
        assert error(wrong[real], expected[real]) > 1e-2


def test_writing_and_decoding_copy_no_cache() -> None:
    _, k, v = inputs(2, torch.float32)
    cache = poisoned_cache(2, torch.float32, [0, 0])
    layer = cache.own[0]
    keys, values = layer.keys.data_ptr(), layer.values.data_ptr()
    ops.kv_write(layer, k[:, :5], v[:, :5])
    assert (layer.keys.data_ptr(), layer.values.data_ptr()) == (keys, values)
    assert torch.equal(layer.keys[:, :, :5], k[:, :5].transpose(1, 2))
    assert layer.values[:, :, 5:].isnan().all()


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("roped", [True, False])
def test_qkv_attention_is_its_parts(normed: bool, roped: bool) -> None:
    q, k, v = inputs(2, torch.float32)
    weights = torch.randn(2, DIM) if normed else (None, None)
    table = ops.rope_table(torch.arange(TOTAL)[None], dim=8, theta=1e4)
    cos, sin = table if roped else (None, None)
    fused = ops.qkv_attention(
        torch.cat([x.flatten(2) for x in (q, k, v)], -1),
        poisoned_cache(2, torch.float32, [0, 4]).own[0],
        cos=cos,
        sin=sin,
        q_norm=weights[0],
        k_norm=weights[1],
        heads=HEADS,
        kv_heads=2,
        head_dim=DIM,
        scale=SCALE,
        style="interleaved",
        eps=1e-6,
        weight_in="f32",
        window=5,
    )
    if normed:
        q = ops.rms_norm(q, weights[0], eps=1e-6, weight_in="f32")
        k = ops.rms_norm(k, weights[1], eps=1e-6, weight_in="f32")
    if roped:
        q, k = (ops.rope(x, *table, style="interleaved") for x in (q, k))
    expected = attend([q, k, v], (TOTAL,), [0, 4], 5)
    torch.testing.assert_close(fused.view(q.shape), expected)


def full_oracle(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """[B, T, H, D] in fp64: every query sees the tokens where the mask is true."""
    out = torch.empty(q.shape, dtype=torch.float64)
    group = q.shape[2] // k.shape[2]
    places = itertools.product(range(q.shape[0]), range(q.shape[1]), range(HEADS))
    for b, t, h in places:
        keys, values = (x[b, mask[b], h // group].double() for x in (k, v))
        out[b, t, h] = (keys @ q[b, t, h].double() * SCALE).softmax(0) @ values
    return out


MASKS = {
    "none": torch.ones(2, TOTAL, dtype=torch.bool),
    "right": torch.arange(TOTAL) < torch.tensor([[13], [4]]),
    "left": torch.arange(TOTAL) >= torch.tensor([[2], [9]]),
    "holes": torch.arange(TOTAL).expand(2, TOTAL) % 3 != 1,
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_full_attention_equals_dense_softmax(kv_heads: int, kind: str) -> None:
    q, k, v = inputs(kv_heads, torch.float32)
    want = full_oracle(q, k, v, MASKS[kind])
    mask = None if kind == "none" else MASKS[kind]
    out = ops.full_attention(q, k, v, mask, scale=SCALE)
    assert error(out.view(q.shape), want) < 2e-6
    if mask is not None:
        off = ops.full_attention(q, k, v, mask.roll(1, 1), scale=SCALE)
        assert error(off.view(q.shape), want) > 1e-2  # the control


def test_full_attention_of_views_of_a_packed_product() -> None:
    q, k, v = inputs(4, torch.float32)
    packed = torch.cat([x.flatten(2) for x in (q, k, v)], dim=-1)
    views = [ops.heads(x, n=HEADS) for x in ops.split(packed, sizes=(64, 64, 64))]
    mask = MASKS["right"]
    assert torch.equal(
        ops.full_attention(*views, mask, scale=SCALE),
        ops.full_attention(q, k, v, mask, scale=SCALE),
    )
