"""The arithmetic of quantised weights: codes and scales to the weights they stand for.

Rows: int8 codes, one scale per row, as ChatGLM's `quantization_bit`; with 4 bits two
codes lie in a byte, the even column in the high nibble, each in two's complement.
Blocks: float8 (e4m3) codes, one float32 scale per block of rows and columns.
"""

import torch


def unpack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """int8 codes [..., I] from stored [..., I], or [..., I / 2] where `bits` is 4."""
    if bits == 8:
        return codes
    # Shifts of int8 are arithmetic: they carry the sign of the nibble along.
    return torch.stack([codes >> 4, (codes << 4) >> 4], dim=-1).flatten(-2)


def dequantize_rows(
    codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, bits: int
) -> torch.Tensor:
    """Weights [..., I] of `dtype`: each code times the `scale` [...] of its row.

    Both are taken to `dtype` first and the product is rounded to it once, as the
    published code does; every code is exact in every floating dtype.
    """
    return unpack(codes, bits).to(dtype) * scale.to(dtype)[..., None]


def dequantize_blocks(
    codes: torch.Tensor,
    scale: torch.Tensor,
    dtype: torch.dtype,
    block: tuple[int, int],
) -> torch.Tensor:
    """Weights [..., O, I] of `dtype`: each code times the `scale` of its block.

    `scale` is [..., ceil(O / block[0]), ceil(I / block[1])]. The product is made in
    float32 and rounded to `dtype` once.
    """
    height, width = codes.shape[-2:]
    spread = scale.float().repeat_interleave(block[0], -2)[..., :height, :]
    spread = spread.repeat_interleave(block[1], -1)[..., :width]
    return (codes.float() * spread).to(dtype)
