"""A cache of codes: what the kernels write and read is the definition's."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import KeysValues
from glmc.backends.torch import ops as reference
from support.kernels import attention_use, examples, qkv_use, random
from support.ranges import first

Interpreted = Callable[..., ModuleType]
F8 = torch.float8_e4m3fn
LAYER: dict[str, Any] = {"heads": 6, "kv_heads": 2, "head_dim": 48}
SHAPE = (2, 48, 48)
few = examples(8)


def filled(kind: torch.dtype, past: int, start: list[int] | None) -> Cache:
    """Two rows; what lies beyond the filled slots must not be read."""
    cache = Cache([{"kv": KeysValues(*SHAPE)}], 2, past + 36, kind, "cpu")
    layer = cache.own[0]
    for states in (layer.keys, layer.values):
        states.view(torch.uint8).fill_(0x7F)
    for scales in (layer.key_scales, layer.value_scales):
        if scales is not None:
            scales.fill_(torch.nan)
    layer.write(
        0, *(random(2, 2, past, 48, dtype=torch.float32, seed=n) for n in (1, 2))
    )
    cache.length = past
    cache.start = None if start is None else torch.tensor(start, dtype=torch.int32)
    return cache


def packed(tokens: int, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    angles = random(2, tokens, 12, dtype=torch.float32, seed=seed)
    return {
        **LAYER,
        "qkv": random(2, tokens, 10 * 48, dtype=dtype, seed=seed),
        "cos": angles.cos(),
        "sin": angles.sin(),
        "scale": 48**-0.5,
    }


def compare(
    module: ModuleType,
    kind: torch.dtype,
    *,
    tokens: int,
    past: int,
    start: list[int] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> None:
    """The context of real queries, and the codes and scales that are left behind."""
    ours, theirs = filled(kind, past, start), filled(kind, past, start)
    call = packed(tokens, dtype, seed)
    with mock.patch.multiple(module, SPLITS=4, FAN=2):
        got = module.qkv_attention(kv=ours.own[0], **call)
    want = reference.qkv_attention(kv=theirs.own[0], **call)
    left, right = ours.own[0], theirs.own[0]
    # A key turned in another order of operations may fall on the other side of a step.
    for name in ("keys", "values"):
        filled_slots = [
            getattr(layer, name)[:, :, : past + tokens].float()
            for layer in (left, right)
        ]
        step = 1 if kind == torch.int8 else filled_slots[1].abs().div(8).clamp(2**-9)
        off = (filled_slots[0] - filled_slots[1]).abs()
        assert (off <= step).all()
        assert (off > 0).float().mean() < 0.01
    if kind == torch.int8:
        for name in ("key_scales", "value_scales"):
            pair = getattr(left, name), getattr(right, name)
            torch.testing.assert_close(*pair, atol=0, rtol=1e-3, equal_nan=True)
    real = torch.arange(past, past + tokens) >= torch.tensor(start or [0, 0])[:, None]
    assert not got.isnan().any()
    tolerance = 2e-3 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(got[real], want[real], atol=tolerance, rtol=tolerance)


@few
@given(
    kind=st.sampled_from([torch.int8, F8]),
    tokens=st.sampled_from([1, 1, 5]),
    past=st.integers(0, 40),
    starts=st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    seed=st.integers(0, 99),
)
def test_values(
    interpreted: Interpreted,
    kind: torch.dtype,
    tokens: int,
    past: int,
    starts: tuple[int, int] | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    module = interpreted(qkv_use(6, 2, 48, rotary=24))
    start = None if starts is None else [min(first, past) for first in starts]
    compare(module, kind, tokens=tokens, past=past, start=start, dtype=dtype, seed=seed)


@pytest.mark.parametrize("kind", [torch.int8, F8])
def test_attention_alone(interpreted: Interpreted, kind: torch.dtype) -> None:
    module = interpreted(attention_use(6, 2, 48))
    layer = filled(kind, 20, None).own[0]
    layer.cache.length = 19
    q = random(2, 1, 6, 48, dtype=torch.float32, seed=5)
    got = module.attention(q, layer, scale=0.2)
    want = reference.attention(q, layer, scale=0.2)
    torch.testing.assert_close(got, want, atol=3e-6, rtol=3e-6)


def test_every_float8_is_read_and_the_nearest_is_written(
    interpreted: Interpreted,
) -> None:
    """Against PyTorch's own conversions: all codes, the middles between them, and
    numbers beyond the largest."""
    module = interpreted(qkv_use(1, 1, 64))
    codes = torch.arange(256, dtype=torch.uint8)
    numbers = codes.view(F8).float()
    numbers = numbers[numbers.isfinite()].sort().values
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = torch.cat([middles, middles * 1.0001, middles * 0.9999])
    every = torch.cat([numbers, near, torch.tensor([449.0, 1e9, -1e30, 1e-9])])
    every = torch.nn.functional.pad(every, (0, -len(every) % 64)).view(-1, 1, 64)
    rows = len(every)
    cache = Cache([{"kv": KeysValues(1, 64, 64)}], rows, 3, F8, "cpu")
    qkv = torch.cat([every, every, every], dim=-1)
    sizes = {"heads": 1, "kv_heads": 1, "head_dim": 64, "scale": 1e-3}
    got = module.qkv_attention(qkv, cache.own[0], **sizes)
    wanted = every[:, 0].clamp(-448, 448).to(F8)
    written = cache.own[0].values[:, 0, 0]
    # 0 and -0 are one number.
    assert torch.equal(written.float(), wanted.float())
    # One slot has all of the weight: what is read is what was written.
    assert torch.equal(got[:, 0], wanted.float())


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    first(
        1,
        [
            (torch.int8, "/ 127.0", "/ 128.0"),
            (
                torch.int8,
                "scale = tl.load(scales + slot",
                "scale = tl.load(scales + 0 * slot",
            ),
            (torch.int8, "seen = (steps * scale", "seen = (0.9 * steps * scale"),
            (F8, "0x7FFFF", "0x0"),
            (F8, "* 256.0", "* 128.0"),
            (F8, "(120 << 3)", "(119 << 3)"),
        ],
    ),
)
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, kind: torch.dtype, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    module = interpreted(qkv_use(6, 2, 48, rotary=24), edit=edit)
    with pytest.raises(AssertionError):
        compare(module, kind, tokens=1, past=40)


@pytest.mark.parametrize("kind", [torch.int8, F8])
def test_control_without_a_mistake(interpreted: Interpreted, kind: torch.dtype) -> None:
    compare(interpreted(qkv_use(6, 2, 48, rotary=24)), kind, tokens=1, past=40)
