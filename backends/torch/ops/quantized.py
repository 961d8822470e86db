"""Linear maps and embeddings that read weights as stored: codes and scales."""

import torch
import torch.nn.functional as F

from glmc.backends.runtime.quantization import dequantize, unpack_codes


def quantized_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    *,
    bits: int,
    zeros: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    floats: str | None = None,
    divided: bool = False,
) -> torch.Tensor:
    """`x @ W.T + bias`: [..., I] -> [..., O], with W the codes times their scales.

    `weight` is int8 [O, I * bits / 8] as `pack_codes` makes it; `scale` is [O], or
    [O, G] with one for I / G columns, of whose codes `zeros` int8 [O, G] is taken off.
    Codes may be small `floats`: "fp8" with scales in float32; "nvfp4" with scales in
    float8 that are multiplied, or `divided`, by the `factor` float32 [O] of their row;
    "mx" with bytes, exponents plus 127.
    """
    w = dequantize(weight, scale, x.dtype, bits, zeros, factor, floats, divided)
    return F.linear(x, w, bias)


def quantized_embedding(
    ids: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, *, bits: int
) -> torch.Tensor:
    """Looks up rows at `ids` int64 [B, T] of codes int8 [V, E * bits / 8], as
    `pack_codes` makes them, times their `scale` [V] -> [B, T, E]."""
    codes = unpack_codes(weight[ids], bits)
    return codes.to(scale.dtype) * scale[ids][..., None]
