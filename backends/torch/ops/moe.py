"""Mixtures of experts: which experts a token goes to, and what they make of it."""

import torch
import torch.nn.functional as F

from glmc.backends.torch.ops.elementwise import act_mul


def moe_router(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    correction: torch.Tensor | None = None,
    top_k: int,
    score: str,
    groups: int = 1,
    top_groups: int = 1,
    renormalise: bool = False,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts of `x` [B, T, E]: ids int64 and weights fp32, both [B, T, top_k].

    `weight` [X, E] and `correction` [X] are fp32, and so is everything here: the
    choice of experts must not hang on rounding. `correction` counts for the choice
    only. The sum that renormalises has 1e-20 added, as published.
    """
    logits = F.linear(x.float(), weight.float())
    scores = logits.softmax(-1) if score == "softmax" else logits.sigmoid()
    choice = scores if correction is None else scores + correction
    if groups > 1:
        choice = eligible_experts(choice, groups, top_groups)
    experts = choice.topk(top_k, dim=-1).indices
    weights = scores.gather(-1, experts)
    if renormalise:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return experts, weights * scale


def eligible_experts(choice: torch.Tensor, groups: int, top: int) -> torch.Tensor:
    """`choice` [..., X] with -inf outside the `top` groups whose two best sum
    highest."""
    grouped = choice.view(*choice.shape[:-1], groups, -1)
    best = grouped.topk(2, dim=-1).values.sum(-1).topk(top, dim=-1).indices
    out = torch.ones(grouped.shape[:-1], dtype=torch.bool, device=choice.device)
    out.scatter_(-1, best, False)
    return grouped.masked_fill(out.unsqueeze(-1), -torch.inf).flatten(-2)


def moe_experts(
    x: torch.Tensor,
    experts: torch.Tensor,
    weights: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    *,
    fn: str,
) -> torch.Tensor:
    """Each token of `x` [B, T, E] through its `experts`, added up by `weights`.

    `gate_up` [X, 2F, E] is laid out gate | up, `down` is [X, E, F]. The experts that
    some token goes to are run one after the other, each on all of its tokens.
    """
    tokens = x.flatten(0, -2)
    chosen, shares = experts.flatten(0, -2), weights.flatten(0, -2)
    out = torch.zeros_like(tokens)
    for expert in sorted(set(chosen.flatten().tolist())):
        token, place = torch.where(chosen == expert)
        hidden = act_mul(F.linear(tokens[token], gate_up[expert]), fn=fn)
        part = F.linear(hidden, down[expert]) * shares[token, place, None]
        out.index_add_(0, token, part.to(out.dtype))
    return out.view_as(x)
