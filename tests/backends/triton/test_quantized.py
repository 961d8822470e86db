"""Products with quantised weights against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from support.kernels import examples, quantized_use, random

Interpreted = Callable[..., ModuleType]

# The reference rounds each weight to the dtype, the kernel the sum: in float32 these
# are the same but for the order of sums, in float16 a step of rounding apart.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}
DTYPES = st.sampled_from([torch.float32, torch.float16])


def stored(
    rows: int, width: int, bits: int, dtype: torch.dtype, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Any bytes as codes, and scales that make weights of about 1 / sqrt(width)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, width * bits // 8)
    codes = torch.randint(-128, 128, shape, generator=generator).to(torch.int8)
    scale = torch.rand(rows, generator=generator) + 0.5
    return codes, (scale / (2 ** (bits - 2) * width**0.5)).to(dtype)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.dtype == want.dtype
    tolerance = TOLERANCE[want.dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("bits", [4, 8])
@examples(14)
@given(
    dtype=DTYPES,
    tokens=st.integers(1, 40),
    width=st.integers(1, 70) | st.sampled_from([512, 1025, 1100]),
    rows=st.integers(1, 70),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_product(
    interpreted: Interpreted,
    bits: int,
    dtype: torch.dtype,
    tokens: int,
    width: int,
    rows: int,
    bias: bool,
    seed: int,
) -> None:
    width *= 2 if bits == 4 else 1
    module = interpreted(quantized_use(bits), quantized_use(bits, bias=True))
    codes, scale = stored(rows, width, bits, dtype, seed)
    x = random(1, tokens, width, dtype=dtype, seed=seed)
    given_bias = random(rows, dtype=dtype, seed=seed + 1) if bias else None
    got = module.quantized_linear(x, codes, scale, bits=bits, bias=given_bias)
    want = reference.quantized_linear(x, codes, scale, bits=bits, bias=given_bias)
    close(got, want)


def test_both_widths_in_one_model(interpreted: Interpreted) -> None:
    module = interpreted(quantized_use(4), quantized_use(8))
    for bits in (4, 8):
        codes, scale = stored(20, 64, bits, torch.float32, 3)
        for tokens in (2, 9):
            x = random(1, tokens, 64, dtype=torch.float32, seed=1)
            close(
                module.quantized_linear(x, codes, scale, bits=bits),
                reference.quantized_linear(x, codes, scale, bits=bits),
            )


@pytest.mark.parametrize("layout", ["last token", "every other", "transposed", "row"])
@pytest.mark.parametrize("bits", [4, 8])
def test_strides(interpreted: Interpreted, bits: int, layout: str) -> None:
    whole = random(2, 12, 40, dtype=torch.float32, seed=0)
    x = {
        "last token": whole[:, -1:],
        "every other": whole[:, ::2],
        "transposed": whole.transpose(1, 2),
        "row": whole[:, :1].expand(-1, 9, -1),
    }[layout]
    codes, scale = stored(20, x.shape[-1], bits, torch.float32, 3)
    module = interpreted(quantized_use(bits))
    got = module.quantized_linear(x, codes, scale, bits=bits)
    close(got, reference.quantized_linear(x, codes, scale, bits=bits))


@pytest.mark.parametrize(
    ("bits", "right", "wrong"),
    [
        (4, "pair >> 4", "pair >> 3"),
        (4, "even, odd = tl.split", "odd, even = tl.split"),
        (4, "(pair << 28) >> 28", "pair & 15"),
        (8, "result = total * gain[None, :]", "result = total"),
        (8, "tl.sum(total, 1) * gain", "tl.sum(total, 1)"),
        (8, "column < IN - begin", "column < IN"),
    ],
)
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, bits: int, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    use, dtype = quantized_use(bits), torch.float32
    codes, scale = stored(33, 1100, bits, dtype, 5)
    whole = random(9, 2000, dtype=dtype, seed=2)  # what follows a row is no zero
    worst = []
    for change in (str, edit):
        module = interpreted(use, edit=change)
        off = 0.0
        for tokens in (1, 9):
            x = whole[:tokens, :1100]
            got = module.quantized_linear(x, codes, scale, bits=bits)
            want = reference.quantized_linear(x, codes, scale, bits=bits)
            off = max(off, (got - want).abs().max().item())
        worst.append(off)
    assert worst[0] < TOLERANCE[dtype]
    assert not worst[1] < 10 * TOLERANCE[dtype]
