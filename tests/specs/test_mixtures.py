"""Specs with experts, latent attention and text parts: what they say and refuse."""

from __future__ import annotations

import fnmatch

import pytest

from glmc.frontends.wording import numbers_from
from glmc.ir import model as m
from glmc.ir.errors import GlmcError
from glmc.ir.lower import lower
from support import latest
from support.configs import GLM4_MOE, GLM4_MOE_LITE, GLM4V, GLM_MOE_DSA
from support.loading import Load, Refusal


@pytest.mark.parametrize("first", [1, 3, 9, 10, 46, 99, 100, 190])
def test_globs_of_the_numbers_from_one_on(first: int) -> None:
    globs = numbers_from(first)
    for number in range(1000):
        matched = [g for g in globs if fnmatch.fnmatchcase(str(number), g)]
        assert len(matched) == (number >= first), number


def test_a_mixture(load: Load) -> None:
    dense, mixed = load(GLM4_MOE | {"use_qk_norm": True}).model.blocks
    assert (dense.name, dense.layers) == ("dense_layer", (0,))
    assert (mixed.name, mixed.layers) == ("moe_layer", (1, 2, 3))
    moe = mixed.steps[1].op
    assert isinstance(moe, m.Moe)
    assert (moe.experts, moe.top_k, moe.ff, moe.router.score) == (8, 2, 24, "sigmoid")
    assert moe.gate.tensor == "model.layers.{i}.mlp.experts.{x}.gate_proj.weight"
    assert moe.router.correction
    assert moe.router.correction.tensor.endswith(".mlp.gate.e_score_correction_bias")
    assert moe.shared
    assert moe.shared.ff == 24
    attention = mixed.steps[0].op
    assert isinstance(attention, m.Attention)
    assert attention.q_norm
    assert attention.rope
    assert (attention.rope.dim, attention.rope.style) == (8, "half")


def test_latent_attention(load: Load) -> None:
    op = load(GLM4_MOE_LITE).model.blocks[0].steps[0].op
    assert isinstance(op, m.Mla)
    assert (op.nope, op.head_dim, op.v_dim, op.q_rank) == (12, 20, 20, 40)
    assert op.kv_norm.eps == 1e-6
    assert op.scale == pytest.approx(20**-0.5)
    plain = load(GLM4_MOE_LITE | {"q_lora_rank": None}).model.blocks[0].steps[0].op
    assert isinstance(plain, m.Mla)
    assert plain.q_a is None
    assert plain.q.weight.tensor == "model.layers.{i}.self_attn.q_proj.weight"


def test_a_cache_of_latents(load: Load) -> None:
    """As wide as a latent and the shared key; the keys of an indexer beside it."""
    for config, indexed in ((GLM4_MOE_LITE, {}), (GLM_MOE_DSA, {"index": (16,)})):
        model = load(config).model
        op = model.blocks[0].steps[0].op
        assert isinstance(op, m.Mla)
        kept = {state.name: state.type.dims for state in lower(model).blocks[0].states}
        assert kept == {"latents": (op.kv_rank + op.rope.dim,), **indexed}


def test_dots3_of_an_older_config(load: Load) -> None:
    """Keys that the config class of transformers renamed mean what it makes of them."""
    new = latest.published("dots3_note_text")
    renamed = {*new["per_layer_config"]["1"], "per_layer_config", "mlp_layer_types"}
    old = {k: v for k, v in new.items() if k not in renamed or k in _OF_BOTH}
    old |= {f"swa_{k}": v for k, v in new["per_layer_config"]["1"].items()}
    old |= {"first_k_dense_replace": 1, "swa_rope_theta": 5e4, "rope_theta": 8e7}
    kinds = {"indexed_attention": 8e7, "sliding_attention": 5e4}
    ropes = {kind: {"rope_theta": theta} for kind, theta in kinds.items()}
    assert load(old).model == load(new | {"rope_parameters": ropes}).model


_OF_BOTH = frozenset(
    {"kv_lora_rank", "num_attention_heads", "num_key_value_heads", "q_lora_rank"}
    | {"qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "head_dim"}
)


def test_no_learned_prefix_for_latents(load: Load) -> None:
    prefix = m.PrefixEncoder(length=4, table=m.Weight(tensor="prefix.weight"))
    model = load(GLM4_MOE_LITE).model.model_copy(update={"prefix_encoder": prefix})
    with pytest.raises(GlmcError, match="has a prefix encoder"):
        lower(model)


def test_a_text_part_may_be_nested(load: Load) -> None:
    whole = ("model_type", "architectures", "vision_config", "image_token_id")
    text = {key: value for key, value in GLM4V.items() if key not in whole}
    outer = {key: GLM4V[key] for key in whole}
    nested = outer | {"text_config": text | {"model_type": "glm4v_text"}}
    assert load(nested).model == load(GLM4V).model
    assert load(nested).keys.keys() == GLM4V.keys()
    small = load(nested, sets=["num_hidden_layers=2"]).model
    assert small.layers == 2
    assert any(waiver.pattern == "model.visual.*" for waiver in small.waivers)


@pytest.mark.parametrize(
    ("config", "change", "told"),
    [
        (GLM4_MOE, {"n_group": 3}, "8 experts do not make 3 groups"),
        (GLM4_MOE, {"n_group": 8}, "groups of two or more"),
        (GLM4_MOE, {"n_group": 2, "topk_group": 3}, "3 of 2 groups"),
        (GLM4_MOE, {"num_experts_per_tok": 9}, "9 of 8 experts"),
        (
            GLM4_MOE,
            {"head_dim": None, "num_attention_heads": 6},
            "without head_dim, hidden_size (E) must be a multiple",
        ),
        (GLM4_MOE_LITE, {"mlp_layer_types": ["dense"]}, "an entry for each"),
        (GLM4_MOE_LITE, {"num_key_value_heads": 2}, "each head has its own keys"),
        (GLM_MOE_DSA, {"q_lora_rank": None}, "q_lora_rank must be given"),
        (GLM_MOE_DSA, {"indexer_types": ["shared"] * 4}, "the first layer must have"),
        (GLM_MOE_DSA, {"index_topk_pattern": "FFSS"}, "give indexer_types"),
        (GLM_MOE_DSA, {"scoring_func": "softmax"}, "scoring_func"),
        (GLM_MOE_DSA, {"index_head_dim": 4}, "at least the 8 rotary channels"),
        (GLM4V, {"text_config": 3}, "text_config must be an object"),
    ],
)
def test_what_cannot_be_is_refused(
    refusal: Refusal, config: dict[str, object], change: dict[str, object], told: str
) -> None:
    assert told in refusal(config | change)
