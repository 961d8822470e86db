"""A module's attention kernels held against the reference."""

from __future__ import annotations

from types import ModuleType
from typing import Any
from unittest import mock

import torch

from glmc.backends.torch import ops as reference
from support.kernels import filled_cache, random

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
    layer = cache.layers[0]
    keys, values = (
        random(batch, tokens, K, width, dtype=dtype, seed=seed + width)
        for width in (D, V)
    )
    reference.kv_write(layer, keys, values)
    # As a view of packed q | k | v, with strides of its own.
    packed = random(batch, tokens, (H + 1) * D, dtype=dtype, seed=seed)
    q = packed[..., : H * D].unflatten(-1, (H, D))
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
