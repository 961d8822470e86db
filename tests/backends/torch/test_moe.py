"""Routers and experts against the modules of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.models.glm4_moe import modeling_glm4_moe as glm
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen

from glmc.backends.torch import ops

X, E, F, K = 12, 16, 8, 3


def sorted_by_expert(
    experts: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    order = experts.argsort(-1)
    return experts.gather(-1, order), weights.gather(-1, order)


def compare(published: Any, x: torch.Tensor, **attributes: Any) -> None:
    """The same experts with the same weights, in whatever order."""
    _, weights, experts = published(x.flatten(0, 1))
    got = ops.moe_router(x, published.weight, top_k=K, **attributes)
    got = [value.flatten(0, 1) for value in got]
    wanted = sorted_by_expert(experts, weights)
    for mine, theirs in zip(sorted_by_expert(*got), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("groups", [(1, 1), (4, 2), (3, 1)])
def test_sigmoid_with_correction_and_groups(
    renormalise: bool, groups: tuple[int, int]
) -> None:
    config = transformers.Glm4MoeConfig(
        hidden_size=E,
        n_routed_experts=X,
        num_experts_per_tok=K,
        n_group=groups[0],
        topk_group=groups[1],
        norm_topk_prob=renormalise,
        routed_scaling_factor=2.5,
    )
    published = glm.Glm4MoeTopkRouter(config)
    torch.manual_seed(0)
    published.weight.data.normal_()
    published.e_score_correction_bias.normal_()
    compare(
        published,
        torch.randn(2, 9, E),
        correction=published.e_score_correction_bias,
        score="sigmoid",
        groups=groups[0],
        top_groups=groups[1],
        renormalise=renormalise,
        scale=2.5,
    )


@pytest.mark.parametrize("renormalise", [True, False])
def test_softmax(renormalise: bool) -> None:
    config = transformers.Qwen3MoeConfig(
        hidden_size=E,
        num_experts=X,
        num_experts_per_tok=K,
        norm_topk_prob=renormalise,
    )
    published = qwen.Qwen3MoeTopKRouter(config)
    torch.manual_seed(0)
    published.weight.data.normal_()
    compare(published, torch.randn(2, 9, E), score="softmax", renormalise=renormalise)


def test_control_the_correction_does_not_weigh() -> None:
    torch.manual_seed(0)
    x, weight, correction = torch.randn(1, 5, E), torch.randn(X, E), torch.randn(X)
    plain, _ = ops.moe_router(x, weight, top_k=K, score="sigmoid")
    chosen, weights = ops.moe_router(
        x, weight, correction=correction, top_k=K, score="sigmoid"
    )
    assert not torch.equal(plain.sort().values, chosen.sort().values)
    scores = torch.nn.functional.linear(x, weight).sigmoid()
    torch.testing.assert_close(weights, scores.gather(-1, chosen))


def test_experts_are_added_up_by_weight() -> None:
    torch.manual_seed(0)
    x, experts = torch.randn(2, 3, E), torch.randint(0, X, (2, 3, K))
    weights = torch.rand(2, 3, K)
    gate_up, down = torch.randn(X, 2 * F, E), torch.randn(X, E, F)
    got = ops.moe_experts(x, experts, weights, gate_up, down, fn="silu")
    want = torch.zeros_like(x)
    for b, t, k in torch.cartesian_prod(*map(torch.arange, (2, 3, K))).tolist():
        gate, up = (gate_up[experts[b, t, k]] @ x[b, t]).chunk(2)
        made = down[experts[b, t, k]] @ (torch.nn.functional.silu(gate) * up)
        want[b, t] += weights[b, t, k] * made
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
