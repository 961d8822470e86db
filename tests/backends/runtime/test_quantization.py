"""The arithmetic of quantised weights, held to bytes and to arithmetic from outside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.runtime.quantization import (
    dequantize_blocks,
    dequantize_rows,
    unpack,
)
from support import quantised
from support.ranges import examples

DTYPES = {torch.float32: np.float32, torch.float16: np.float16}


@pytest.mark.parametrize(
    ("byte", "even", "odd"),
    [
        (0x17, 1, 7),
        (0x71, 7, 1),
        (0xF1, -1, 1),
        (0x1F, 1, -1),
        (0x98, -7, -8),
        (0, 0, 0),
    ],
)
def test_the_even_column_lies_in_the_high_nibble(
    byte: int, even: int, odd: int
) -> None:
    codes = torch.tensor([[byte]], dtype=torch.uint8).view(torch.int8)
    assert unpack(codes, 4).tolist() == [[even, odd]]


def test_every_byte() -> None:
    packed = np.arange(256, dtype=np.uint8).view(np.int8).reshape(16, 16)
    assert unpack(torch.from_numpy(packed), 4).tolist() == (
        quantised.unpack(packed).tolist()
    )


@examples(30)
@given(
    rows=st.integers(1, 5),
    width=st.integers(1, 9),
    bits=st.sampled_from([4, 8]),
    dtype=st.sampled_from(list(DTYPES)),
    seed=st.integers(0, 999),
)
def test_rows(rows: int, width: int, bits: int, dtype: torch.dtype, seed: int) -> None:
    noise = np.random.default_rng(seed)
    codes = noise.integers(-128, 128, (rows, width), dtype=np.int8)
    scale = noise.uniform(1e-4, 2, rows).astype(np.float16)
    want = quantised.dequantise(codes, scale, bits, DTYPES[dtype])
    got = dequantize_rows(torch.from_numpy(codes), torch.from_numpy(scale), dtype, bits)
    assert got.dtype == dtype
    assert torch.equal(got, torch.from_numpy(want))


@pytest.mark.parametrize("block", [(128, 128), (3, 5)])
@pytest.mark.parametrize("shape", [(200, 130), (3, 5), (1, 1), (7, 300)])
def test_blocks(shape: tuple[int, int], block: tuple[int, int]) -> None:
    noise = torch.Generator().manual_seed(1)
    codes = torch.randn(*shape, generator=noise).to(torch.float8_e4m3fn)
    grid = [-(-size // part) for size, part in zip(shape, block, strict=True)]
    scale = torch.rand(*grid, generator=noise)
    got = dequantize_blocks(codes, scale, torch.float32, block)
    for row in range(shape[0]):
        for column in range(shape[1]):
            gain = scale[row // block[0], column // block[1]]
            assert got[row, column] == codes[row, column].float() * gain
