"""Mixtures of experts: the choice of each token's experts, and their outputs."""

import torch
import torch.nn.functional as F

from glmc.backends.torch.ops.elementwise import ACTIVATIONS, act_mul, clamped_glu


def moe_router(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    correction: torch.Tensor | None = None,
    ids: torch.Tensor | None = None,
    table: torch.Tensor | None = None,
    top_k: int,
    softcap: float | None = None,
    score: str,
    jitter: float | None = None,
    after: str | None = None,
    groups: int = 1,
    top_groups: int = 1,
    group_score: str = "top2",
    ineligible: str = "never",
    renormalise: bool = False,
    least_sum: float | None = None,
    sum_eps: float | None = None,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chooses the experts of `x` [B, T, E]: ids int64 and weights fp32, both
    [B, T, top_k].

    `weight` [X, E], `bias` [X] and `correction` [X] are fp32, and so is everything
    here: the choice of experts must not hang on rounding. Logits are capped softly
    within ± `softcap` where it is given. `correction` counts for the
    choice only; with a `table` int64 [V, top_k] the experts are those of the token's
    `ids` [B, T]; and `after` is applied to the scores of the chosen. The sum that
    renormalises has `sum_eps` added, else 1e-20, as published.
    """
    logits = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if score == "sparsemixer":
        assert jitter is not None
        experts, weights = sparsemixer(logits, top_k, jitter)
        return experts, weights * scale
    scores = expert_scores(logits, score)
    choice = scores if correction is None else scores + correction
    if groups > 1:
        lowest = 0.0 if ineligible == "zero" else -torch.inf
        choice = eligible_experts(choice, groups, top_groups, group_score, lowest)
    experts = choice.topk(top_k, dim=-1).indices if table is None else table[ids]
    weights = scores.gather(-1, experts)
    if after:
        weights = expert_scores(weights, after)
    if renormalise:
        total = weights.sum(-1, keepdim=True)
        added = 1e-20 if sum_eps is None else sum_eps
        weights = weights / (total.clamp(min=least_sum) if least_sum else total + added)
    return experts, weights * scale


def expert_scores(logits: torch.Tensor, score: str) -> torch.Tensor:
    """Returns the softmax, sigmoid or root of the softplus of `logits` [..., X], or
    with "logit" themselves."""
    if score == "logit":
        return logits
    if score == "sqrt_softplus":
        return F.softplus(logits).sqrt()
    return logits.softmax(-1) if score == "softmax" else logits.sigmoid()


def sparsemixer(
    logits: torch.Tensor, top_k: int, jitter: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and weights [..., top_k] of `logits` [..., X], chosen one after the
    other.

    An expert weighs as its share in a softmax over those that are left and whose logit
    is at most `2 * jitter` below the highest m, relative to max(|logit|, m)
    (https://arxiv.org/abs/2409.12136, without its noise).
    """
    left, chosen, weights = logits, [], []
    for _ in range(top_k):
        best, expert = left.max(-1, keepdim=True)
        below = (best - logits) / torch.maximum(logits.abs(), best)
        near = left.masked_fill(below > 2 * jitter, -torch.inf)
        chosen.append(expert)
        weights.append(near.softmax(-1).gather(-1, expert))
        left = left.scatter(-1, expert, -torch.inf)
    return torch.cat(chosen, -1), torch.cat(weights, -1)


def eligible_experts(
    choice: torch.Tensor, groups: int, top: int, score: str, lowest: float
) -> torch.Tensor:
    """Returns `choice` [..., X] with `lowest` outside the `top` groups whose best
    ("max"), or two best together ("top2"), are highest."""
    grouped = choice.view(*choice.shape[:-1], groups, -1)
    judged = grouped.topk(1 if score == "max" else 2, dim=-1).values.sum(-1)
    best = judged.topk(top, dim=-1).indices
    out = torch.ones(grouped.shape[:-1], dtype=torch.bool, device=choice.device)
    out.scatter_(-1, best, False)
    return grouped.masked_fill(out.unsqueeze(-1), lowest).flatten(-2)


def scale_experts(
    weights: torch.Tensor, experts: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """`weights` fp32 [B, T, k] times `scale` [X] fp32 of the `experts` int64 [B, T, k]
    that they belong to."""
    return weights * scale[experts]


def moe_experts(
    x: torch.Tensor,
    experts: torch.Tensor,
    weights: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    *,
    gate_up_bias: torch.Tensor | None = None,
    down_bias: torch.Tensor | None = None,
    fn: str,
    alpha: float | None = None,
    limit: float | None = None,
    cut: str = "activated",
    soft: float | None = None,
    weigh: str = "output",
    zero_experts: int = 0,
    gated: bool = True,
) -> torch.Tensor:
    """Sends each token of `x` [B, T, E] through its `experts`, added up by `weights`.

    `gate_up` [X, 2F, E] is laid out gate | up, `down` is [X, E, F]. With `weigh`
    "input" it is the token that is weighed, not what an expert makes of it. The biases
    are [X, 2F] and [X, E]; with `limit`, gate and up go through `clamped_glu`. Not
    `gated`, `gate_up` is [X, F, E] and there is no gate.
    The experts that some token goes to are run one after the other, each on all of its
    tokens; the `zero_experts` after the X give back what they read.
    """
    tokens = x.flatten(0, -2)
    chosen, shares = experts.flatten(0, -2), weights.flatten(0, -2)
    out = torch.zeros_like(tokens)
    for expert in sorted(set(chosen.flatten().tolist())):
        token, place = torch.where(chosen == expert)
        read, share = tokens[token], shares[token, place, None]
        if weigh == "input":
            read = (read * share).to(read.dtype)
        if expert >= len(down):
            part = read
        else:
            hidden = F.linear(read, gate_up[expert], at(gate_up_bias, expert))
            if not gated:
                hidden = ACTIVATIONS[fn](hidden)
            elif limit is None:
                hidden = act_mul(hidden, fn=fn)
            else:
                gate, up = hidden.chunk(2, dim=-1)
                hidden = clamped_glu(
                    gate, up, fn=fn, limit=limit, alpha=alpha, cut=cut, soft=soft
                )
            part = F.linear(hidden, down[expert], at(down_bias, expert))
        part = part if weigh == "input" else part * share
        out.index_put_((token,), part.to(out.dtype), accumulate=True)
    return out.view_as(x)


def at(stack: torch.Tensor | None, index: int) -> torch.Tensor | None:
    """Returns one of a stack of biases, where there are any."""
    return None if stack is None else stack[index]
