"""Attention residuals: mixtures of a residual stream [B, T, E] and of snapshots of it
[B, T, N, E] from earlier layers."""

import torch


def no_snapshots(x: torch.Tensor) -> torch.Tensor:
    """Returns no snapshot of `x` [B, T, E]: [B, T, 0, E]."""
    return x.new_empty(*x.shape[:2], 0, x.shape[-1])


def snapshot(snapshots: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Returns the snapshots [B, T, N, E] and `x` after them."""
    return torch.cat((snapshots, x.unsqueeze(2)), 2)


def mix_snapshots(
    snapshots: torch.Tensor,
    x: torch.Tensor,
    norm: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
) -> torch.Tensor:
    """Adds up the snapshots and `x` by the softmax over them of
    `weight @ rms_norm(row)`, in fp32; `norm` [E] is the norm's weight."""
    rows = torch.cat((snapshots, x.unsqueeze(2)), 2).float()
    length = torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps)
    scores = (rows * length) @ (norm.float() * weight.float().squeeze(0))
    return (scores.softmax(-1).unsqueeze(-1) * rows).sum(2).to(x.dtype)
