"""rope outside attention against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from support.kernels import examples, random, rope_use

Interpreted = Callable[..., ModuleType]

# The reference turns in the dtype of x, by tables that it rounds to it.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 8e-3}
FORMS: dict[str, dict[str, Any]] = {
    "half": {"style": "half"},
    "interleaved": {"style": "interleaved"},
    "sections": {"style": "half", "sections": 2},
    "backwards": {"style": "half", "reverse": True},
}


def off(
    module: ModuleType,
    form: dict[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    heads: int = 3,
    pairs: int = 12,
    first: int = 0,
    after: int = 4,
    seed: int = 0,
) -> float:
    """Return how far the launcher is from the reference at most."""
    width = first + 2 * pairs + after
    x = random(2, 3, heads, width, dtype=dtype, seed=seed)
    angles = random(2, 3, pairs, dtype=torch.float32, seed=seed + 1)
    given = {**form, **({"first": first} if first else {})}
    got = module.rope(x, angles.cos(), angles.sin(), **given)
    want = reference.rope(x, angles.cos(), angles.sin(), **given)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    return float((got - want).abs().max())


@pytest.mark.parametrize("form", FORMS)
@examples(6)
@given(
    dtype=st.sampled_from(list(TOLERANCE)),
    heads=st.integers(1, 4),
    pairs=st.integers(1, 20),
    first=st.sampled_from([0, 0, 1, 17]),
    after=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_values(
    interpreted: Interpreted,
    form: str,
    dtype: torch.dtype,
    pairs: int,
    first: int,
    **sizes: int,
) -> None:
    attrs = FORMS[form]
    module = interpreted(*(rope_use(**each) for each in FORMS.values()))
    pairs *= attrs.get("sections", 1)
    # In the reference these two are of models that have neither of the others.
    first = 0 if form in ("sections", "backwards") else first
    size = off(module, attrs, dtype=dtype, pairs=pairs, first=first, **sizes)
    assert size <= TOLERANCE[dtype]


def test_heads_that_are_cut_from_a_wider_row(interpreted: Interpreted) -> None:
    packed = random(2, 3, 4 * 20 + 12, dtype=torch.float32, seed=0)
    x = packed[..., 12:].unflatten(-1, (4, 20))
    angles = random(2, 3, 10, dtype=torch.float32, seed=1)
    got = interpreted(rope_use()).rope(x, angles.cos(), angles.sin(), style="half")
    want = reference.rope(x, angles.cos(), angles.sin(), style="half")
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        (
            "half",
            "tl.where(first, -partner, partner)",
            "tl.where(first, 1, 1) * partner",
        ),
        ("half", "source + FIRST + other", "source + other"),
        ("half", "channel < ROTARY)", "channel < ROTARY - 1)"),
        ("interleaved", "channel ^ 1", "channel"),
        ("half", "row * (ROTARY // 2) + pair", "pair"),
        ("half", "row // T * x_batch", "0"),
    ],
)
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, form: str, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    use = rope_use(**FORMS[form], first=5)
    right_one, wrong_one = interpreted(use), interpreted(use, edit=edit)
    assert off(right_one, FORMS[form], first=5) < TOLERANCE[torch.float32]
    assert not off(wrong_one, FORMS[form], first=5) < 0.01
