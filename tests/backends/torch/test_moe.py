"""Routers and experts against the modules of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.models.axk2 import modeling_axk2 as axk2
from transformers.models.cohere2_moe import modeling_cohere2_moe as cohere
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as deepseek
from transformers.models.gemma4 import modeling_gemma4 as gemma4
from transformers.models.glm4_moe import modeling_glm4_moe as glm
from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss
from transformers.models.phimoe import modeling_phimoe as phimoe
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen

from glmc.backends.torch import ops

X, E, F, K = 12, 16, 8, 3


def sorted_by_expert(
    experts: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    order = experts.argsort(-1)
    return experts.gather(-1, order), weights.gather(-1, order)


def compare(published: Any, x: torch.Tensor, top_k: int = K, **attributes: Any) -> None:
    """The same experts with the same weights, in whatever order."""
    _, weights, experts = published(x.flatten(0, 1))
    got = ops.moe_router(x, published.weight, top_k=top_k, **attributes)
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


@pytest.mark.parametrize("ineligible", ["zero", "never"])
def test_experts_of_other_groups_count_as_zero(ineligible: str) -> None:
    """All experts of the one eligible group would be chosen, were none below 0."""
    config = transformers.AXK2Config(
        hidden_size=E,
        n_routed_experts=X,
        num_experts_per_tok=6,
        n_group=2,
        topk_group=1,
    )
    published = axk2.AXK2TopkRouter(config)
    torch.manual_seed(0)
    published.weight.data.normal_()
    published.e_score_correction_bias.normal_()
    attributes: dict[str, Any] = {
        "correction": published.e_score_correction_bias,
        "score": "sigmoid",
        "groups": 2,
        "top_groups": 1,
        "ineligible": ineligible,
        "renormalise": True,
        "scale": 2.5,
    }
    x = torch.randn(2, 9, E)
    if ineligible == "zero":
        compare(published, x, top_k=6, **attributes)
        return
    with pytest.raises(AssertionError):
        compare(published, x, top_k=6, **attributes)


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


def test_groups_by_their_best() -> None:
    config = transformers.DeepseekV2Config(
        num_attention_heads=4,
        hidden_size=E,
        n_routed_experts=X,
        num_experts_per_tok=K,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5,
    )
    published = deepseek.DeepseekV2TopkRouter(config)
    torch.manual_seed(0)
    published.weight.data.normal_()
    groups = {"groups": 4, "top_groups": 2, "group_score": "max"}
    compare(published, torch.randn(2, 9, E), score="softmax", scale=2.5, **groups)


@pytest.mark.parametrize("after", ["softmax", "sigmoid"])
def test_logits(after: str) -> None:
    config = transformers.Cohere2MoeConfig(
        hidden_size=E,
        num_experts=X,
        num_experts_per_tok=K,
        expert_selection_fn=after,
        norm_topk_prob=True,
    )
    published = cohere.Cohere2MoeTopKRouter(config)
    torch.manual_seed(0)
    published.weight.data.normal_()
    how: dict[str, Any] = {"score": "logit", "after": after}
    compare(published, torch.randn(2, 9, E), **how, renormalise=after == "sigmoid")


def test_a_bias_and_the_least_sum() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 5, E), torch.randn(X, E), torch.randn(X)
    how: dict[str, Any] = {"top_k": K, "score": "softmax", "renormalise": True}
    _, weights = ops.moe_router(x, weight, bias=bias, least_sum=4.0, **how)
    scores = torch.nn.functional.linear(x, weight, bias).softmax(-1)
    torch.testing.assert_close(weights, scores.topk(K).values / 4)


def test_experts_that_read_weighed_tokens() -> None:
    torch.manual_seed(0)
    x, experts = torch.randn(1, 2, E), torch.randint(0, X, (1, 2, 1))
    share, gate_up = torch.rand(1, 2, 1), torch.randn(X, 2 * F, E)
    stacks = (gate_up, torch.randn(X, E, F))
    got = ops.moe_experts(x, experts, share, *stacks, fn="relu", weigh="input")
    want = ops.moe_experts(x, experts, share.square(), *stacks, fn="relu")
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("jitter", [0.01, 0.3])
def test_sparsemixer(jitter: float) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 9, E), torch.randn(X, E)
    weights, experts = phimoe.sparsemixer((x @ weight.T).flatten(0, 1), jitter, False)
    how = {"top_k": 2, "score": "sparsemixer", "jitter": jitter}
    got = [value.flatten(0, 1) for value in ops.moe_router(x, weight, **how)]
    torch.testing.assert_close(got[0], experts)
    torch.testing.assert_close(got[1], weights)
    other = ops.moe_router(x, weight, **{**how, "jitter": 2 * jitter})[1]
    assert not torch.allclose(other.flatten(0, 1), weights)


def test_biases_and_a_clamped_glu() -> None:
    config = transformers.GptOssConfig(
        hidden_size=E, intermediate_size=F, num_local_experts=X, swiglu_limit=0.8
    )
    published = gpt_oss.GptOssExperts(config)
    torch.manual_seed(0)
    for parameter in published.parameters():
        parameter.data.normal_()
    x, weights = torch.randn(1, 6, E), torch.rand(1, 6, K)
    experts = torch.rand(1, 6, X).topk(K).indices
    both, bias = published.gate_up_proj.mT, published.gate_up_proj_bias
    got = ops.moe_experts(
        x,
        experts,
        weights,
        torch.cat([both[:, ::2], both[:, 1::2]], 1),
        published.down_proj.mT,
        gate_up_bias=torch.cat([bias[:, ::2], bias[:, 1::2]], 1),
        down_bias=published.down_proj_bias,
        fn="silu",
        alpha=1.702,
        limit=0.8,
    )
    want = published(x[0], experts[0], weights[0])
    torch.testing.assert_close(got[0], want, atol=1e-4, rtol=1e-4)


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


def test_each_chosen_experts_weight_has_its_factor() -> None:
    config = transformers.Gemma4TextConfig(
        hidden_size=E, num_experts=X, top_k_experts=K, rms_norm_eps=1e-3
    )
    router = gemma4.Gemma4TextRouter(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(2, 5, E, generator=generator)
    _, weights, experts = router(x.flatten(0, 1))
    read = ops.rms_norm(x, router.scale, eps=1e-3, weight_in="input")
    read = ops.scale(read, factor=E**-0.5)
    given = {"top_k": K, "score": "softmax", "renormalise": True}
    found, plain = ops.moe_router(read, router.proj.weight, **given)
    got = ops.scale_experts(plain, found, router.per_expert_scale)
    wanted = sorted_by_expert(experts, weights)
    mine = sorted_by_expert(found.flatten(0, 1), got.flatten(0, 1))
    assert torch.equal(mine[0], wanted[0])
    torch.testing.assert_close(mine[1], wanted[1])
    unscaled = sorted_by_expert(found.flatten(0, 1), plain.flatten(0, 1))
    assert (unscaled[1] - wanted[1]).abs().max() > 0.01
