"""Elementwise kernels, and the write into the cache, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import CACHE_DTYPES, KeysValues
from glmc.backends.torch import ops as reference
from support.kernels import (
    elementwise_use,
    examples,
    random,
    write_use,
)

Interpreted = Callable[..., ModuleType]

TOLERANCE = {torch.float32: 1e-5, torch.float16: 8e-3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "add": ("add", {}),
    "mul": ("mul", {}),
    "scale": ("scale", {"factor": 0.3}),
    "scale, rounded": ("scale", {"factor": 0.3, "rounded": True}),
    "gate": ("gate", {"fn": "sigmoid"}),
    "soft gate": ("gate", {"fn": "softplus"}),
    "norm": ("rms_normalize", {"eps": 1e-5}),
}
USES = [elementwise_use(name, **attrs) for name, attrs in CASES.values()]


def operands(name: str, gates: int, *shape: int, dtype: torch.dtype, seed: int) -> Any:
    """x, and what it is taken with."""
    x = random(*shape, dtype=dtype, seed=seed)
    if name in ("add", "mul"):
        return [x, random(*shape, dtype=dtype, seed=seed + 1)]
    if name == "gate":
        # Past where softplus is its argument, too.
        return [x, 20 * random(*shape[:-1], gates, dtype=dtype, seed=seed + 1)]
    return [x]


@pytest.mark.parametrize("case", CASES)
@examples(5)
@given(
    dtype=st.sampled_from(list(TOLERANCE)),
    rows=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    gates=st.integers(1, 5),
    each=st.integers(1, 40) | st.just(700),
    seed=st.integers(0, 99),
)
def test_values(
    interpreted: Interpreted,
    case: str,
    dtype: torch.dtype,
    rows: tuple[int, int],
    gates: int,
    each: int,
    seed: int,
) -> None:
    name, attrs = CASES[case]
    given = operands(name, gates, *rows, gates * each, dtype=dtype, seed=seed)
    got = getattr(interpreted(*USES), name)(*given, **attrs)
    want = getattr(reference, name)(*given, **attrs)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    limit = TOLERANCE[dtype]
    torch.testing.assert_close(got, want, atol=4 * limit, rtol=limit)


def test_a_view_of_a_wider_row(interpreted: Interpreted) -> None:
    x, y = random(2, 3, 50, dtype=torch.float32, seed=0).split([20, 30], -1)
    module = interpreted(*USES)
    torch.testing.assert_close(module.mul(x, y[..., :20]), x * y[..., :20])
    turned = y.transpose(1, 2)
    torch.testing.assert_close(module.add(turned, turned), 2 * turned)


@pytest.mark.parametrize("kept", [None, *CACHE_DTYPES])
@pytest.mark.parametrize("tokens", [1, 5])
def test_write(interpreted: Interpreted, tokens: int, kept: str | None) -> None:
    def written(module: Any) -> list[torch.Tensor]:
        declared = [{"kv": KeysValues(2, 24, 40)}]
        kind = CACHE_DTYPES[kept] if kept else None
        cache = Cache(declared, 2, tokens + 4, torch.float32, "cpu", kind)
        for slots in cache.own[0].tensors().values():
            slots.zero_()
        cache.length = 3
        packed = random(2, tokens, 2 * 64, dtype=torch.float32, seed=4)
        k, v = packed.unflatten(-1, (2, 64)).split([24, 40], -1)
        (state,) = cache.own
        assert module.kv_write(state, k, v) is state
        return [slots.float() for slots in state.tensors().values()]

    ours, theirs = written(interpreted(write_use(2, 24, 40))), written(reference)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("case", "right", "wrong"),
    [
        ("add", "y + row * y_row", "y"),
        ("mul", "value *= other", "value += other"),
        ("scale", "value *= FACTOR", "pass"),
        ("gate", "column // (F // G)", "column % G"),
        ("soft gate", "opened > 20.0, opened, soft", "opened > 0.0, opened, soft"),
        ("norm", "/ E + EPS", "/ BLOCK + EPS"),
    ],
)
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, case: str, right: str, wrong: str
) -> None:
    name, attrs = CASES[case]

    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    def off(module: ModuleType) -> float:
        given = operands(name, 3, 2, 3, 30, dtype=torch.float32, seed=0)
        got = getattr(module, name)(*given, **attrs)
        return float((got - getattr(reference, name)(*given, **attrs)).abs().max())

    use = elementwise_use(name, **attrs)
    assert off(interpreted(use)) < 1e-4
    assert not off(interpreted(use, edit=edit)) < 1e-2
