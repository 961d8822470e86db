"""Prefill and decode kernels against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from support.attention import TOLERANCE, compare
from support.kernels import (
    attention_use,
    examples,
    filled_cache,
    random,
)
from support.ranges import first

Interpreted = Callable[..., ModuleType]

DTYPES = st.sampled_from(list(TOLERANCE))
DIMS = st.sampled_from([1, 7, 16, 33, 64, 80, 96, 128, 256])
WINDOWS = st.none() | st.integers(1, 40)
GROUPS = st.sampled_from([(1, 1), (2, 1), (2, 2), (5, 1), (6, 2), (17, 1)])
few = examples(30)


def module_for(
    interpreted: Interpreted,
    heads: tuple[int, int],
    dims: tuple[int, int],
    window: int | None,
) -> ModuleType:
    return interpreted(attention_use(*heads, *dims, window=window))


@few
@given(
    tokens=st.integers(2, 70),
    past=st.integers(0, 40),
    heads=GROUPS,
    dim=DIMS,
    window=WINDOWS,
    starts=st.none() | st.tuples(st.integers(0, 12), st.integers(0, 12)),
    dtype=DTYPES,
    seed=st.integers(0, 99),
)
def test_prefill(
    interpreted: Interpreted,
    tokens: int,
    past: int,
    heads: tuple[int, int],
    dim: int,
    window: int | None,
    starts: tuple[int, int] | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    compare(
        module_for(interpreted, heads, (dim, dim), window),
        tokens=tokens,
        past=past,
        heads=heads,
        dims=(dim, dim),
        start=None if starts is None else list(starts),
        window=window,
        dtype=dtype,
        seed=seed,
    )


@few
@given(
    past=st.integers(0, 40) | st.sampled_from([126, 127, 128, 129, 300]),
    heads=GROUPS,
    dim=DIMS,
    window=WINDOWS | st.just(150),
    starts=st.none() | st.tuples(st.integers(0, 30), st.integers(0, 30)),
    dtype=DTYPES,
    seed=st.integers(0, 99),
)
def test_decode(
    interpreted: Interpreted,
    past: int,
    heads: tuple[int, int],
    dim: int,
    window: int | None,
    starts: tuple[int, int] | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    start = None if starts is None else [min(first, past) for first in starts]
    compare(
        module_for(interpreted, heads, (dim, dim), window),
        tokens=1,
        past=past,
        heads=heads,
        dims=(dim, dim),
        start=start,
        window=window,
        dtype=dtype,
        seed=seed,
    )


@pytest.mark.parametrize("length", first(2, [1, 65, 64, 63, 127, 129]))
def test_decode_across_the_border_of_a_part(
    interpreted: Interpreted, length: int
) -> None:
    # 4 parts of 16 slots: the 65th is the first that makes them larger.
    module = interpreted(attention_use(2, 1, 16))
    assert module.DECODE[4]["SLOTS"] == 16
    compare(module, tokens=1, past=length - 1, heads=(2, 1), dims=(16, 16))


@pytest.mark.parametrize(("kv_heads", "splits"), [(32, 8), (8, 32), (2, 64), (1, 64)])
def test_parts_of_the_cache(
    interpreted: Interpreted, kv_heads: int, splits: int
) -> None:
    module = interpreted(attention_use(32, kv_heads, 16))
    assert splits == module.SPLITS
    if kv_heads == 1:
        sizes: dict[str, Any] = {"heads": (32, 1), "dims": (16, 16)}
        compare(module, tokens=1, past=150, splits=splits, fan=module.FAN, **sizes)


@pytest.mark.parametrize("tokens", [1, 20])
def test_values_of_another_width(interpreted: Interpreted, tokens: int) -> None:
    module = interpreted(attention_use(4, 2, 24, 40))
    compare(module, tokens=tokens, past=9, heads=(4, 2), dims=(24, 40))


@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("window", [None, 5])
def test_some_layers_with_a_window(
    interpreted: Interpreted, tokens: int, window: int | None
) -> None:
    module = interpreted(attention_use(window=5), attention_use())
    compare(module, tokens=tokens, past=30, heads=(4, 2), dims=(64, 64), window=window)


@pytest.mark.parametrize("heads", [(40, 1), (33, 1)])
def test_a_group_of_more_heads_than_a_program_takes(
    interpreted: Interpreted, heads: tuple[int, int]
) -> None:
    module = interpreted(attention_use(*heads, 256))
    assert module.DECODE[4]["ROWS"] == 32
    compare(module, tokens=1, past=20, heads=heads, dims=(256, 256))


def test_bfloat16_values_in_float32(interpreted: Interpreted) -> None:
    """The interpreter gets bf16 wrong; its values, cast, are what can be tried here."""
    module = interpreted(attention_use())
    q = random(1, 5, 4, 64, dtype=torch.bfloat16, seed=0).float()
    layer = filled_cache(
        (2, 64, 64), batch=1, past=5, tokens=0, dtype=torch.float32
    ).own[0]
    for states in (layer.keys, layer.values):
        states.copy_(states.bfloat16())
    layer.cache.length = 0
    got = module.attention(q, layer, scale=0.125)
    want = reference.attention(q, layer, scale=0.125)
    torch.testing.assert_close(got, want, atol=3e-6, rtol=3e-6)


def test_a_batch_does_not_change_a_sequence(
    interpreted: Interpreted, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = interpreted(attention_use())
    monkeypatch.setattr(module, "SPLITS", 4)
    layer = filled_cache(
        (2, 64, 64), batch=3, past=50, tokens=0, dtype=torch.float32
    ).own[0]
    layer.cache.length = 49
    q = random(3, 1, 4, 64, dtype=torch.float32, seed=0)
    together = module.attention(q, layer, scale=0.125)
    for row in range(3):
        alone = filled_cache((2, 64, 64), batch=1, past=50, tokens=0, dtype=q.dtype)
        alone.length = 49
        alone.own[0].keys.copy_(layer.keys[row : row + 1])
        alone.own[0].values.copy_(layer.values[row : row + 1])
        got = module.attention(q[row : row + 1], alone.own[0], scale=0.125)
        assert torch.equal(got, together[row : row + 1])


@pytest.mark.parametrize(
    ("right", "wrong"),
    first(
        1,
        [
            ("distance >= 0", "distance >= 1"),
            ("visible = slot < stop", "visible = slot <= stop"),
            ("distance < WINDOW", "distance <= WINDOW"),
            ("begin, past + origin - WINDOW + 1", "begin, past + origin - WINDOW + 2"),
            ("first, past - WINDOW + 1", "first, past - WINDOW + 2"),
            ("total * decay", "total"),
            ("context *= decay[:, None]", "context *= 1.0"),
            (
                "seen = tl.maximum(end - first, 1)",
                "seen = tl.maximum(end - first - 1, 1)",
            ),
            ("tl.exp2(weight - top), 0.0", "tl.exp2(weight - weight), 0.0"),
            ("begin = tl.load(start + batch)", "begin = 0"),
            (
                "batch * KV_HEADS + head // (HEADS // KV_HEADS)",
                "batch * KV_HEADS + head % 2",
            ),
        ],
    ),
)
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    def check(module: ModuleType) -> None:
        for tokens, past, window in ((40, 30, 9), (9, 0, 9), (1, 64, 9), (1, 64, 65)):
            compare(
                module,
                tokens=tokens,
                past=past,
                heads=(4, 2),
                dims=(64, 64),
                start=[0, 3],
                window=window,
            )

    check(interpreted(attention_use(window=9)))
    with pytest.raises(AssertionError):
        check(interpreted(attention_use(window=9), edit=edit))
