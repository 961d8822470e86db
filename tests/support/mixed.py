"""The tiny mixtures beyond GLM's, and dense models with latent attention, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ; ``CLASSES`` its class in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import FAMILIES as DENSE
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
_SPARSE: Config = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
}
_LLAMA4: Config = {
    **RMS,
    "intermediate_size": 40,
    "intermediate_size_mlp": 96,
    "head_dim": 16,
    "num_hidden_layers": 4,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 8,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
}
_EYES: Config = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "image_size": 28,
    "patch_size": 14,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "vision_output_dim": 32,
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
    "deepseek_v32": {
        **_DEEPSEEK,
        "index_topk": 6,
        "index_head_dim": 16,
        "index_n_heads": 16,
    },
    "axk1": _DEEPSEEK,
    "youtu": _LATENT,
    "minicpm3": {**_LATENT, "scale_emb": 3, "scale_depth": 0.9, "dim_model_base": 24},
    "olmoe": {**RMS, "num_experts": 8, "num_experts_per_tok": 3},
    "flex_olmo": {**RMS, "num_experts": 8, "num_experts_per_tok": 3},
    "dots1": {
        **{k: v for k, v in _DEEPSEEK.items() if k not in _LATENT or k in RMS},
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
    "solar_open": {
        **{k: v for k, v in _DEEPSEEK.items() if k not in _LATENT or k in RMS},
        "num_key_value_heads": 2,
        "head_dim": 32,
        "first_k_dense_replace": 0,
    },
    "ernie4_5_moe": {
        **RMS,
        "moe_num_experts": 8,
        "moe_k": 3,
        "moe_intermediate_size": 24,
        "moe_num_shared_experts": 2,
    },
    "granitemoe": {
        **DENSE["granite"],
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
    },
    "granitemoeshared": {
        **DENSE["granite"],
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 40,
    },
    "hunyuan_v1_moe": {**RMS, "head_dim": 32, "num_experts": 6, "moe_topk": 2},
    "minimax_m2": {
        **RMS,
        "head_dim": 32,
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
    },
    "gpt_oss": {
        **RMS,
        "head_dim": 32,
        "sliding_window": 8,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "swiglu_alpha": 1.5,
        "swiglu_limit": 0.8,
        "rope_parameters": {**_YARN, "truncate": False},
    },
    "llama4_text": _LLAMA4,
    "cohere2_moe": {
        **DENSE["cohere2"],
        "num_hidden_layers": 4,
        "layer_types": None,
        "first_k_dense_replace": 1,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_shared_experts": 2,
        "prefix_dense_intermediate_size": 80,
    },
    "aria_text": {**RMS, "moe_num_experts": 6, "moe_topk": 2},
    "afmoe": {
        **RMS,
        **_SPARSE,
        "head_dim": 32,
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "num_shared_experts": 2,
        "route_scale": 1.5,
    },
    "exaone_moe": {
        **RMS,
        **_SPARSE,
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "num_shared_experts": 2,
        "n_group": 4,
        "topk_group": 2,
    },
    "mellum": {
        **RMS,
        **_SPARSE,
        "head_dim": 32,
        "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 5e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "qwen3_vl_moe": {
        "text_config": {
            **DENSE["qwen3_vl"]["text_config"],
            **_SPARSE,
            "decoder_sparse_step": 2,
        },
        "vision_config": DENSE["qwen3_vl"]["vision_config"],
    },
    "llama4": {"text_config": _LLAMA4, "vision_config": _EYES},
    "kimi_k25": {
        "text_config": _DEEPSEEK,
        "tie_word_embeddings": False,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "pos_emb_height": 2,
            "pos_emb_width": 2,
        },
    },
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
    "deepseek_v32": {"selects": {}},
    "axk1": {"post_norm": {"num_hidden_layers": 4}},
    "youtu": {"latent": {}},
    "minicpm3": {"scaled": {}, "defaults": {"v_head_dim": None, "mlp_bias": True}},
    "olmoe": {"all_heads": {"norm_topk_prob": True}, "as_scored": {}},
    "flex_olmo": {"post_norms": {}},
    "dots1": {
        "window": {
            "sliding_window": 8,
            "max_window_layers": 2,
            "num_hidden_layers": 4,
        },
        "one_group": {"n_group": 1, "topk_group": 1, "norm_topk_prob": True},
    },
    "solar_open": {"groups": {}},
    "ernie4_5_moe": {
        "shared": {},
        "some": {
            "use_bias": True,
            "num_hidden_layers": 4,
            "moe_layer_interval": 2,
            "moe_num_shared_experts": 0,
        },
    },
    "granitemoe": {"after": {}},
    "granitemoeshared": {"shared": {}, "alone": {"shared_intermediate_size": 0}},
    "hunyuan_v1_moe": {"shared": {}},
    "minimax_m2": {
        "corrected": {},
        "partial": {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            }
        },
    },
    "gpt_oss": {"sinks": {}},
    "llama4_text": {
        "chunks": {},
        "bare": {
            "use_qk_norm": False,
            "num_experts_per_tok": 1,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 1.0,
                "original_max_position_embeddings": 16,
            },
        },
    },
    "cohere2_moe": {
        "average": {},
        "sum": {
            "shared_expert_combination_strategy": "sum",
            "expert_selection_fn": "sigmoid",
            "rms_norm_eps": 1e-2,
        },
    },
    "aria_text": {"shared": {}},
    "afmoe": {"gates": {"mup_enabled": True}},
    "exaone_moe": {"windows": {}},
    "mellum": {"two_ropes": {}},
    "llama4": {"text": {}},
}

# Queries that grow with positions are told by the cache's length in transformers.
NEAR = frozenset({"llama4_text", "llama4"})

CLASSES: Mapping[str, str] = {
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v32": "DeepseekV32ForCausalLM",
    "axk1": "AXK1ForCausalLM",
    "youtu": "YoutuForCausalLM",
    "minicpm3": "MiniCPM3ForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "flex_olmo": "FlexOlmoForCausalLM",
    "dots1": "Dots1ForCausalLM",
    "solar_open": "SolarOpenForCausalLM",
    "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "granitemoeshared": "GraniteMoeSharedForCausalLM",
    "hunyuan_v1_moe": "HunYuanMoEV1ForCausalLM",
    "minimax_m2": "MiniMaxM2ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "llama4_text": "Llama4ForCausalLM",
    "cohere2_moe": "Cohere2MoeForCausalLM",
    "aria_text": "AriaTextForCausalLM",
    "afmoe": "AfmoeForCausalLM",
    "exaone_moe": "ExaoneMoeForCausalLM",
    "mellum": "MellumForCausalLM",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    "llama4": "Llama4ForConditionalGeneration",
    "kimi_k25": "KimiK25ForConditionalGeneration",
}


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    return {**FAMILIES[family], **head, "torch_dtype": "bfloat16"}
