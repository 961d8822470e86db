"""Kernels of experts against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from support.kernels import examples, moe_use, random

Interpreted = Callable[..., ModuleType]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}


def inputs(
    tokens: tuple[int, int],
    *,
    experts: int = 5,
    top_k: int = 2,
    width: int = 40,
    ff: int = 72,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> list[torch.Tensor]:
    """x, experts, weights, gate_up and down; no expert twice for one token."""
    logits = random(*tokens, experts, dtype=torch.float32, seed=seed)
    weights, chosen = logits.softmax(-1).topk(top_k)
    return [
        random(*tokens, width, dtype=dtype, seed=seed + 1),
        chosen,
        weights,
        random(experts, 2 * ff, width, dtype=dtype, seed=seed + 2) / width**0.5,
        random(experts, width, ff, dtype=dtype, seed=seed + 3) / ff**0.5,
    ]


@pytest.mark.parametrize("fn", ["silu", "gelu_tanh"])
@examples(12)
@given(
    dtype=st.sampled_from(list(TOLERANCE)),
    tokens=st.tuples(st.integers(1, 3), st.integers(1, 20)),
    experts=st.integers(2, 9),
    width=st.sampled_from([16, 40, 130]),
    ff=st.sampled_from([8, 72]),
    seed=st.integers(0, 99),
)
def test_values(
    interpreted: Interpreted,
    fn: str,
    dtype: torch.dtype,
    tokens: tuple[int, int],
    experts: int,
    width: int,
    ff: int,
    seed: int,
) -> None:
    module = interpreted(moe_use(fn))
    sizes = {"experts": experts, "width": width, "ff": ff}
    given = inputs(tokens, **sizes, dtype=dtype, seed=seed)  # type: ignore[arg-type]
    got = module.moe_experts(*given, fn=fn)
    want = reference.moe_experts(*given, fn=fn)
    assert got.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


def test_many_rows_for_one_expert(interpreted: Interpreted) -> None:
    """Several blocks of one expert, and none of others."""
    module = interpreted(moe_use())
    x, chosen, weights, *matrices = inputs((2, 45))
    chosen[..., 0], chosen[..., 1] = 3, 1
    given = [x, chosen, weights, *matrices]
    got, want = (
        side.moe_experts(*given, fn="silu")
        for side in (module, reference)  # type: ignore[attr-defined]
    )
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_layers_with_different_functions(interpreted: Interpreted) -> None:
    module = interpreted(moe_use("silu"), moe_use("gelu"))
    given = inputs((1, 3))
    for fn in ("silu", "gelu"):
        got = module.moe_experts(*given, fn=fn)
        want = reference.moe_experts(*given, fn=fn)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("row // TOP_K", "row % TOP_K"),
        ("weights + F * E + depth", "weights + depth"),
        ("(ends - counts)[expert] + begun * rows", "(ends - counts)[expert]"),
        ("tl.load(shares + row", "tl.load(shares + place"),
    ],
)
def test_control_a_wrong_line_shows(
    interpreted: Interpreted, old: str, new: str
) -> None:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    module = interpreted(moe_use(), edit=edit)
    given = inputs((2, 40))
    got = module.moe_experts(*given, fn="silu")
    want = reference.moe_experts(*given, fn="silu")
    assert not torch.allclose(got, want, atol=1e-2)
