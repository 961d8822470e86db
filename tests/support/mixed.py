"""The tiny mixtures beyond GLM's, and dense models with latent attention, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ; ``CLASSES`` its class in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import RMS

Config = Mapping[str, Any]

_YARN: Config = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 4096,
}
_LATENT: Config = {
    **RMS,
    "num_key_value_heads": 4,
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
}
_DEEPSEEK: Config = {
    **_LATENT,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
}
_QWEN: Config = {
    **RMS,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}

FAMILIES: Mapping[str, Config] = {
    "mixtral": {**RMS, "num_local_experts": 6, "num_experts_per_tok": 2},
    "qwen2_moe": _QWEN,
    "qwen3_moe": {
        **{k: v for k, v in _QWEN.items() if not k.startswith("shared")},
        "head_dim": 32,
    },
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v2": {**_DEEPSEEK, "topk_method": "group_limited_greedy"},
}

CASES: Mapping[str, Mapping[str, Config]] = {
    "mixtral": {"experts": {}, "window": {"sliding_window": 8}},
    "qwen2_moe": {
        "gated": {},
        "window": {
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 2,
            "mlp_only_layers": [2],
            "norm_topk_prob": True,
            "qkv_bias": False,
        },
    },
    "qwen3_moe": {
        "renormalised": {"norm_topk_prob": True},
        "step": {
            "decoder_sparse_step": 2,
            "use_sliding_window": True,
            "sliding_window": 8,
            "attention_bias": True,
        },
    },
    "deepseek_v3": {
        "groups": {},
        "yarn": {
            "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
            "q_lora_rank": None,
            "attention_bias": True,
        },
        "half": {"rope_interleave": False, "norm_topk_prob": False},
    },
    "deepseek_v2": {
        "groups": {},
        "greedy": {
            "topk_method": "greedy",
            "mlp_bias": True,
            "n_group": None,
            "topk_group": None,
            "q_lora_rank": None,
            "rope_parameters": {**_YARN, "mscale": 0.7, "mscale_all_dim": 0.7},
        },
    },
}

# Positions beyond 16k mean nothing to these.
NEAR: frozenset[str] = frozenset()

CLASSES: Mapping[str, str] = {
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
}


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    return {**FAMILIES[family], **head, "torch_dtype": "bfloat16"}
