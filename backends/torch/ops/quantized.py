"""Linear maps and embeddings that read weights as stored: codes and scales."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from glmc.backends.runtime.quantization import dequantize, unpack_codes
from glmc.backends.torch.ops.moe import moe_experts


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


@dataclass(frozen=True)
class CodedStack:
    """A stack of matrices [X, O, I] that are codes, and are made floats one by one."""

    codes: torch.Tensor
    scale: torch.Tensor
    zeros: torch.Tensor | None
    factor: torch.Tensor | None
    dtype: torch.dtype
    told: dict[str, Any]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, expert: int) -> torch.Tensor:
        zeros, factor = (
            None if one is None else one[expert] for one in (self.zeros, self.factor)
        )
        return dequantize(
            self.codes[expert],
            self.scale[expert],
            self.dtype,
            zeros=zeros,
            factor=factor,
            **self.told,
        )


def quantized_experts(
    x: torch.Tensor,
    experts: torch.Tensor,
    weights: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    gate_up_scale: torch.Tensor,
    down_scale: torch.Tensor,
    *,
    gate_up_zeros: torch.Tensor | None = None,
    down_zeros: torch.Tensor | None = None,
    gate_up_factor: torch.Tensor | None = None,
    down_factor: torch.Tensor | None = None,
    bits: int,
    floats: str | None = None,
    divided: bool = False,
    **more: Any,
) -> torch.Tensor:
    """`moe_experts` of stacks of codes; `more` is what that takes.

    `gate_up` is int8 [X, 2F, E * bits / 8] and `down` [X, E, F * bits / 8]; their
    scales have a dimension of groups, and what else goes with them is for each expert
    as in `quantized_linear`. The matrices of one expert at a time are made floats.
    """
    told = {"bits": bits, "floats": floats, "divided": divided}
    up = (gate_up, gate_up_scale, gate_up_zeros, gate_up_factor)
    out = (down, down_scale, down_zeros, down_factor)
    stacks: Any = [CodedStack(*parts, x.dtype, told) for parts in (up, out)]
    return moe_experts(x, experts, weights, *stacks, **more)
