"""Norms, alone and fused with the residual addition before them."""

import torch
import torch.nn.functional as F


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    weight_in: str = "input",
    unit_offset: bool = False,
) -> torch.Tensor:
    """Computes the root-mean-square norm over the last dimension, statistics in fp32.

    `weight_in` says where the published code multiplies by the weight: "input",
    after the cast back to the dtype of `x` (`LlamaRMSNorm` of transformers), or
    "f32", before it (the remote code of ChatGLM2 and later, Gemma). With
    `unit_offset` it is `1 + weight` that multiplies, summed in fp32.
    """
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    gain = 1.0 + weight.float() if unit_offset else weight
    if weight_in == "f32":
        return (scaled * gain).to(x.dtype)
    return (scaled.to(x.dtype) * gain).to(x.dtype)


def rms_normalize(x: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Computes the root-mean-square norm without a weight, in fp32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    eps: float,
    unit_offset: bool = False,
) -> torch.Tensor:
    """Computes the layer norm over the last dimension, statistics in fp32; `1 + weight`
    multiplies with `unit_offset`."""
    if not unit_offset:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    shift = None if bias is None else bias.float()
    wide = F.layer_norm(x.float(), weight.shape, 1.0 + weight.float(), shift, eps)
    return wide.to(x.dtype)


def layer_norm_heads(
    x: torch.Tensor, weight: torch.Tensor, *, eps: float
) -> torch.Tensor:
    """Computes the layer norm of each head of `x` [B, T, n, D] with its row of `weight`
    [n, D]."""
    wide = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return (wide * weight.float()).to(x.dtype)


def layer_normalize(x: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Computes the layer norm over the last dimension without weight and bias, in
    fp32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


def add_rms_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    weight_in: str = "input",
    unit_offset: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`s = x + y` in the dtype of `x`, and `rms_norm(s)`: returns both."""
    total = x + y
    normed = rms_norm(
        total, weight, eps=eps, weight_in=weight_in, unit_offset=unit_offset
    )
    return total, normed


def add_layer_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    eps: float,
    unit_offset: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`s = x + y` in the dtype of `x`, and `layer_norm(s)`: returns both."""
    total = x + y
    normed = layer_norm(total, weight, bias=bias, eps=eps, unit_offset=unit_offset)
    return total, normed
