"""The kernel of full attention against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from support.kernels import examples, full_use, random
from support.ranges import first

Interpreted = Callable[..., ModuleType]

TOLERANCE = {torch.float32: 3e-6, torch.float16: 3e-3}


def compare(
    module: ModuleType,
    *,
    tokens: int,
    heads: tuple[int, int],
    dims: tuple[int, int],
    mask: torch.Tensor | None,
    packed: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> None:
    """Every query of a batch of two; the states are views of one product, or not."""
    (H, K), (D, V) = heads, dims
    sizes = [H * D, K * D, K * V]
    product = random(2, tokens, sum(sizes), dtype=dtype, seed=seed)
    parts = product.split(sizes, dim=-1)
    states = [x.unflatten(-1, (n, -1)) for x, n in zip(parts, (H, K, K), strict=True)]
    if not packed:
        states = [x.contiguous() for x in states]
    got = module.full_attention(*states, mask, scale=D**-0.5)
    want = reference.full_attention(*states, mask, scale=D**-0.5)
    assert got.shape == want.shape
    assert got.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


def random_mask(tokens: int, seed: int) -> torch.Tensor:
    """A mask with zeros anywhere, and a token that is real in each row."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, tokens, generator=generator) < 0.6
    mask[:, seed % tokens] = True
    return mask


@examples(30)
@given(
    tokens=st.integers(1, 70),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (6, 1), (12, 12)]),
    dim=st.sampled_from([1, 7, 16, 32, 33, 64, 80, 128, 256]),
    masked=st.booleans(),
    packed=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 99),
)
def test_values(
    interpreted: Interpreted,
    tokens: int,
    heads: tuple[int, int],
    dim: int,
    masked: bool,
    packed: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    compare(
        interpreted(full_use(*heads, dim)),
        tokens=tokens,
        heads=heads,
        dims=(dim, dim),
        mask=random_mask(tokens, seed) if masked else None,
        packed=packed,
        dtype=dtype,
        seed=seed,
    )


def test_values_of_another_width(interpreted: Interpreted) -> None:
    module = interpreted(full_use(4, 2, 24, 40))
    mask = torch.arange(20) < torch.tensor([[20], [3]])
    compare(module, tokens=20, heads=(4, 2), dims=(24, 40), mask=mask)


def test_a_mask_that_is_a_view(interpreted: Interpreted) -> None:
    module = interpreted(full_use(2, 2, 16))
    mask = random_mask(40, 1)[:, ::2]
    mask[:, 0] = True
    compare(module, tokens=20, heads=(2, 2), dims=(16, 16), mask=mask)


@pytest.mark.parametrize(
    ("right", "wrong"),
    first(
        1,
        [
            ("real &= tl.load(", "real |= tl.load("),
            ("mask + batch * T + slot", "mask + slot"),
            ("scores * (SCALE * LOG2_E)", "scores * LOG2_E"),
            ("head // (HEADS // KV_HEADS)", "head % KV_HEADS"),
            ("total * decay", "total"),
            ("context *= decay[:, None]", "context *= 1.0"),
            ("values, slot, v_token", "values, slot, k_token + 1"),
            ("real = slot < T", "real = slot < T + 1"),
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
        masks = [None, torch.arange(70) < torch.tensor([[70], [9]])]
        for mask in masks:
            compare(module, tokens=70, heads=(4, 2), dims=(32, 32), mask=mask)

    check(interpreted(full_use(4, 2, 32)))
    with pytest.raises(AssertionError):
        check(interpreted(full_use(4, 2, 32), edit=edit))
