"""Norms, alone and fused with the residual addition before them."""

import torch
import torch.nn.functional as F


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, *, eps: float, weight_in: str = "input"
) -> torch.Tensor:
    """Root-mean-square norm over the last dimension, statistics in fp32.

    `weight_in` says where the published code multiplies by the weight: "input",
    after the cast back to the dtype of `x` (`LlamaRMSNorm` of transformers), or
    "f32", before it (the remote code of ChatGLM2 and later).
    """
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight_in == "f32":
        return (scaled * weight).to(x.dtype)
    return scaled.to(x.dtype) * weight


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    eps: float,
) -> torch.Tensor:
    """Layer norm over the last dimension, statistics in fp32."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def add_rms_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    weight_in: str = "input",
) -> tuple[torch.Tensor, torch.Tensor]:
    """`s = x + y` in the dtype of `x`, and `rms_norm(s)`: returns both."""
    total = x + y
    return total, rms_norm(total, weight, eps=eps, weight_in=weight_in)


def add_layer_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`s = x + y` in the dtype of `x`, and `layer_norm(s)`: returns both."""
    total = x + y
    return total, layer_norm(total, weight, bias=bias, eps=eps)
