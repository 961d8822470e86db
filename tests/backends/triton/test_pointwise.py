"""Activation kernels against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from glmc.ir.activations import ActivationName
from support.kernels import examples, pointwise_use, random

Interpreted = Callable[..., ModuleType]

FUNCTIONS = get_args(ActivationName)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}
few = examples(10)


@pytest.mark.parametrize("name", ["activation", "act_mul"])
@pytest.mark.parametrize("fn", FUNCTIONS)
@few
@given(
    dtype=st.sampled_from(list(TOLERANCE)),
    rows=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    half=st.integers(1, 70) | st.sampled_from([1024, 1025]),
    seed=st.integers(0, 99),
)
def test_values(
    interpreted: Interpreted,
    name: str,
    fn: str,
    dtype: torch.dtype,
    rows: tuple[int, int],
    half: int,
    seed: int,
) -> None:
    module = interpreted(pointwise_use(name, fn))
    x = 4 * random(*rows, 2 * half, dtype=dtype, seed=seed)
    got = getattr(module, name)(x, fn=fn)
    want = getattr(reference, name)(x, fn=fn)
    assert got.dtype == dtype
    assert got.is_contiguous()
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_layers_with_different_functions(interpreted: Interpreted, fn: str) -> None:
    module = interpreted(*(pointwise_use("act_mul", each) for each in FUNCTIONS))
    x = random(3, 20, dtype=torch.float32, seed=0)
    got, want = module.act_mul(x, fn=fn), reference.act_mul(x, fn=fn)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_a_view_of_a_wider_row(interpreted: Interpreted) -> None:
    module = interpreted(pointwise_use("act_mul", "silu"))
    x = random(2, 3, 50, dtype=torch.float32, seed=0)[..., 5:25]
    got, want = module.act_mul(x, fn="silu"), reference.act_mul(x, fn="silu")
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
