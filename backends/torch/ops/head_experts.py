"""Mixtures of attention heads (https://arxiv.org/abs/2210.05144): the queries of a
token's experts, and their outputs.

Query head `n * k + j` is that of a token's j-th of k experts for KV head n.
"""

import torch
import torch.nn.functional as F


def by_expert(
    x: torch.Tensor, experts: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Multiplies rows of `x` [B, T, k, I] by the matrix of their expert int64 [B, T, k]
    in `weight` [X, O, I] -> [B, T, k, O]."""
    out = x.new_empty(*experts.shape, weight.shape[1])
    for expert in sorted(set(experts.flatten().tolist())):
        chosen = experts == expert
        out[chosen] = F.linear(x[chosen], weight[expert])
    return out


def expert_queries(
    x: torch.Tensor, experts: torch.Tensor, weight: torch.Tensor, *, kv_heads: int
) -> torch.Tensor:
    """Multiplies `x` [B, T, E] by the matrices of its `experts` [B, T, k] in `weight`
    [X, K * D, E] -> query heads [B, T, K * k, D]."""
    read = x.unsqueeze(2).expand(*experts.shape, x.shape[-1])
    heads = by_expert(read, experts, weight).view(*experts.shape, kv_heads, -1)
    return heads.transpose(2, 3).flatten(2, 3)


def expert_outputs(
    x: torch.Tensor,
    experts: torch.Tensor,
    weights: torch.Tensor,
    weight: torch.Tensor,
    *,
    kv_heads: int,
) -> torch.Tensor:
    """Multiplies heads `x` [B, T, K * k * D] by the matrices of their `experts`
    [B, T, k] in `weight` [X, E, K * D], and adds up by `weights` fp32 [B, T, k] ->
    [B, T, E]."""
    heads = x.view(*x.shape[:2], kv_heads, experts.shape[-1], -1)
    made = by_expert(heads.transpose(2, 3).flatten(3), experts, weight)
    return (made * weights.to(made.dtype).unsqueeze(-1)).sum(2)
