"""Tiny models whose layers scan tokens, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ; ``CLASSES`` its class in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import RMS

Config = Mapping[str, Any]

# More heads of values than of keys, values wider than keys, none of them a multiple.
_DELTA: Config = {
    **{k: v for k, v in RMS.items() if k != "max_position_embeddings"},
    "max_position_embeddings": 256,
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 10,
    "linear_conv_kernel_dim": 4,
}
_EXPERTS: Config = {
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "num_experts": 8,
    "num_experts_per_tok": 3,
}

_ROPE: Config = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    }
}
_SPARSE: Config = {k: v for k, v in _DELTA.items() if k != "intermediate_size"}
_EYES: Config = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 64,
}

FAMILIES: Mapping[str, Config] = {
    "qwen3_next": {**_DELTA, **_EXPERTS},
    "qwen3_5_text": {**_DELTA, **_ROPE},
    "qwen3_5_moe_text": {**_SPARSE, **_EXPERTS, **_ROPE},
    "qwen3_5": {"text_config": {**_DELTA, **_ROPE}, "vision_config": _EYES},
    "qwen3_5_moe": {
        "text_config": {**_SPARSE, **_EXPERTS, **_ROPE},
        "vision_config": _EYES,
    },
}

CASES: Mapping[str, Mapping[str, Config]] = {
    "qwen3_next": {
        "interval": {},
        "layers": {
            "layer_types": ["full_attention", *["linear_attention"] * 3],
            "mlp_only_layers": [1],
            "linear_conv_kernel_dim": 3,
            "attention_bias": True,
            "norm_topk_prob": False,
            "tie_word_embeddings": True,
        },
    },
    "qwen3_5_text": {
        "interval": {},
        "layers": {
            "layer_types": ["full_attention", *["linear_attention"] * 3],
            "linear_conv_kernel_dim": 2,
            "linear_num_key_heads": 3,
        },
    },
    "qwen3_5_moe_text": {"experts": {}},
    "qwen3_5": {"text": {}},
}

CLASSES: Mapping[str, str] = {
    "qwen3_next": "Qwen3NextForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
}

# What a spec says instead, and the scenario that shows it: see support/mistakes.py.
MISTAKES: tuple[tuple[str, str, str], ...] = (
    ("qwen3_next-interval", "ops: {delta: {scale: 1.0}}", "prompt"),
    ("qwen3_next-interval", "ops: {delta: {l2_eps: null}}", "prompt"),
    ("qwen3_next-interval", "ops: {delta: {conv: {act: null}}}", "decode"),
    ("qwen3_next-interval", "ops: {delta: {beta_scale: 2.0}}", "padded"),
    ("qwen3_next-interval", "ops: {delta: {decay: {low: 0.5}}}", "prompt"),
    ("qwen3_next-interval", "ops: {delta: {decay: {high: 0.5}}}", "prompt"),
    ("qwen3_next-interval", "ops: {delta: {decay: {steps: true}}}", "prompt"),
    ("qwen3_next-interval", "ops: {delta: {norm: {act: sigmoid}}}", "decode"),
    ("qwen3_next-interval", "ops: {delta: {norm: {order: gate_first}}}", "prompt"),
    # No correction of what is kept.
    (
        "qwen3_next-interval",
        "weights: {mix_beta+mix_decay: null, mix_decay: {name: linear_attn.in_proj_ba, "
        "layout: '(Gm [beta:Rm|mix_decay:Rm]) E'}}",
        "prompt",
    ),
    (
        "qwen3_next-interval",
        "weights: {mix_beta+mix_decay: {layout: '(Gm [mix_decay:Rm|mix_beta:Rm]) E'}}",
        "prompt",
    ),
    (
        "qwen3_next-interval",
        "weights: {mix_q+mix_k+mix_v+mix_gate: {layout: '[mix_q:(Gm Dk)|mix_k:(Gm Dk)|"
        "mix_v:(Hm Dv)|mix_gate:(Hm Dv)] E'}}",
        "prompt",
    ),
    (
        "qwen3_5_text-interval",
        "weights: {conv_q+conv_k+conv_v: {layout: "
        "'[conv_k:(Gm Dk)|conv_q:(Gm Dk)|conv_v:(Hm Dv)] 1 Wc'}}",
        "decode",
    ),
)


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    return {**FAMILIES[family], **head, "torch_dtype": "bfloat16"}
