"""Linear maps and embeddings that read weights as stored: codes and scales."""

import torch
import torch.nn.functional as F

from glmc.backends.runtime.quantization import dequantize_rows


def quantized_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    *,
    bits: int,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """`x @ W.T + bias`: [..., I] -> [..., O], with W the codes times their scales.

    `weight` is int8 [O, I], or [O, I / 2] where `bits` is 4; `scale` is [O].
    """
    return F.linear(x, dequantize_rows(weight, scale, x.dtype, bits), bias)


def quantized_embedding(
    ids: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, *, bits: int
) -> torch.Tensor:
    """Rows at `ids` int64 [B, T] of int8 codes [V, E], or [V, E / 2] where `bits` is 4,
    times their `scale` [V] -> [B, T, E]."""
    return dequantize_rows(weight[ids], scale[ids], scale.dtype, bits)
