"""Attention of emitted kernels against the reference, over a cache that is poisoned."""

from __future__ import annotations

from types import ModuleType
from typing import Any
from unittest import mock

import torch

from glmc.backends.torch import ops as reference
from glmc.backends.triton.uses import OpUse
from support.kernels import attention_use, filled_cache, random

TOLERANCE = {torch.float32: 3e-6, torch.float16: 3e-3}


def compare(
    module: ModuleType,
    *,
    tokens: int,
    past: int,
    heads: tuple[int, int],
    dims: tuple[int, int],
    start: list[int] | None = None,
    window: int | None = None,
    prefix: list[int] | None = None,
    learned: int = 0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    splits: int = 4,
    fan: int = 2,
) -> None:
    """The context of every real query of a batch of two.

    The cache is split into fewer parts than on a GPU, each of which costs the
    interpreter time, and these are joined two at a time.
    """
    (H, K), (D, V), batch = heads, dims, 2
    cache = filled_cache(
        (K, D, V), batch=batch, past=past, tokens=tokens, dtype=dtype, start=start
    )
    layer: Any = cache.own[0]
    keys, values = (
        random(batch, tokens, K, width, dtype=dtype, seed=seed + width)
        for width in (D, V)
    )
    reference.kv_write(layer, keys, values)
    # As a view of packed q | k | v, with strides of its own.
    packed = random(batch, tokens, (H + 1) * D, dtype=dtype, seed=seed)
    q = packed[..., : H * D].view(batch, tokens, H, D)
    attrs: dict[str, Any] = {"scale": D**-0.5}
    if window is not None:
        attrs["window"] = window
    if prefix is not None:
        attrs["prefix"] = torch.tensor(prefix, dtype=torch.int32)
    if learned:
        attrs["learned"] = learned
    with mock.patch.multiple(module, SPLITS=splits, FAN=fan):
        got = module.attention(q, layer, **attrs)
    want = reference.attention(q, layer, **attrs)
    assert got.shape == want.shape
    assert got.dtype == dtype
    assert not got.isnan().any()
    slots = torch.arange(past, past + tokens)
    real = slots >= torch.tensor(start or [0] * batch)[:, None]
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got[real], want[real], atol=tolerance, rtol=tolerance)


SLOPES = {"slopes": torch.tensor([0.5, 0.25, 0.125, 0.3])}
SINKS = {"sinks": torch.tensor([-1.0, 3.0, 0.0, 1.5])}
PREFIX = {"prefix": torch.tensor([9, 11], dtype=torch.int32)}
EXTRAS: dict[str, dict[str, Any]] = {
    "capped": {"softcap": 2.0, "window": 30},
    "sloped": {**SLOPES, "window": 30},
    "sunk": {**SINKS, "window": 30},
    "chunked": {"chunk": 17},
    "sloped and sunk": {**SLOPES, **SINKS},
    "sloped, with a prefix": {**SLOPES, **PREFIX, "learned": 2},
    "sunk and capped, with a prefix": {**SINKS, **PREFIX, "softcap": 2.0},
    "all but a prefix": {**SLOPES, **SINKS, "chunk": 17, "window": 30, "softcap": 2.0},
}


def use_of(extra: dict[str, Any]) -> OpUse:
    tensors = [name for name in ("slopes", "sinks") if name in extra]
    attrs = {
        name: value
        for name, value in extra.items()
        if not isinstance(value, torch.Tensor)
    }
    return attention_use(4, 2, 16, extras=tensors, prefix="prefix" in extra, **attrs)


def check_extra(
    module: ModuleType, extra: dict[str, Any], *, tokens: int, past: int
) -> None:
    """A padded batch against the reference, over several parts of the cache."""
    layer: Any = filled_cache(
        (2, 16, 16),
        batch=2,
        past=past,
        tokens=tokens,
        dtype=torch.float32,
        start=[0, 3],
    ).own[0]
    keys, values = (
        random(2, tokens, 2, 16, dtype=torch.float32, seed=n) for n in (1, 2)
    )
    reference.kv_write(layer, keys, values)
    q = 3 * random(2, tokens, 4, 16, dtype=torch.float32, seed=3)
    attrs: dict[str, Any] = {"scale": 0.25, **extra}
    with mock.patch.multiple(module, SPLITS=4, FAN=2):
        got = module.attention(q, layer, **attrs)
    want = reference.attention(q, layer, **attrs)
    real = torch.arange(past, past + tokens) >= torch.tensor([0, 3])[:, None]
    torch.testing.assert_close(got[real], want[real], atol=1e-5, rtol=1e-5)
