"""Further tiny models: the newest types and the less common ones, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ; ``CLASSES`` its class in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import FAMILIES as DENSE
from support.dense import RMS

Config = Mapping[str, Any]

_SPARSE: Config = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
}
_KINDS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
_WINDOWS: Config = {
    "num_hidden_layers": 4,
    "sliding_window": 8,
    "layer_types": _KINDS,
}
_COMPASS: Config = {
    **DENSE["cohere2"],
    "head_dim": 16,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": 8,
    "rope_parameters": {
        "full_attention": None,
        "sliding_attention": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [4, 2, 2],
        },
    },
}
_M3: Config = {
    **RMS,
    "num_hidden_layers": 4,
    "intermediate_size": 24,
    "dense_intermediate_size": 96,
    "shared_intermediate_size": 40,
    "head_dim": 32,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
    },
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
}
_BLOCKS: Config = {
    "layer_types": ["full_attention", *["minimax_m3_sparse"] * 3],
    "index_n_heads": 2,
    "index_head_dim": 32,
    "index_block_size": 4,
    "index_topk_blocks": 2,
    "index_local_blocks": 1,
    "swiglu_limit": 0.6,
    "swiglu_alpha": 1.5,
}

FAMILIES: Mapping[str, Config] = {
    "hy_v3": {**RMS, **_SPARSE, "head_dim": 32, "num_shared_experts": 2},
    "flint": {
        **RMS,
        **_SPARSE,
        **_WINDOWS,
        "head_dim": 32,
        "mlp_only_layers": [0],
        "shared_expert_intermediate_size": 40,
    },
    "kolibri1": {
        **{k: v for k, v in RMS.items() if k != "intermediate_size"},
        **_SPARSE,
        **_WINDOWS,
        "head_dim": 32,
        "shared_expert_intermediate_size": 40,
    },
    "granitemoe_swa": {
        **DENSE["granite_swa"],
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
    },
    "cohere_compass_text": _COMPASS,
    "cohere_compass": {
        "text_config": {**_COMPASS, "tie_word_embeddings": True},
        "tie_word_embeddings": True,
        "vision_config": DENSE["qwen3_vl"]["vision_config"],
    },
    "modernbert-decoder": {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "local_attention": 16,
        "norm_eps": 2e-2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "muse_glimmer": {
        "text_config": {
            **RMS,
            **_WINDOWS,
            "head_dim": 32,
            "post_norm_eps": 2e-2,
            "qk_scale_factor": 2.0,
            "output_multiplier": 0.5,
            "final_logit_softcapping": 2.0,
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
        },
    },
    "mllama": {
        "text_config": {
            **RMS,
            "num_hidden_layers": 5,
            "cross_attention_layers": [1, 3],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "attention_heads": 2,
            "num_hidden_layers": 1,
            "num_global_layers": 1,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 64,
            "image_size": 28,
            "patch_size": 14,
        },
    },
    "mimo_v2_flash": {
        **RMS,
        **_WINDOWS,
        "num_attention_heads": 8,
        "head_dim": 24,
        "v_head_dim": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 24,
    },
    "phimoe": {**RMS, "num_local_experts": 6, "num_experts_per_tok": 2},
    "laguna": {
        **RMS,
        **_SPARSE,
        **_WINDOWS,
        "head_dim": 32,
        "num_attention_heads_per_layer": [4, 6, 6, 4],
        "shared_expert_intermediate_size": 40,
        "moe_routed_scaling_factor": 1.5,
        "rope_parameters": {
            "full_attention": {
                "rope_type": "default",
                "rope_theta": 5e4,
                "partial_rotary_factor": 0.5,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "longcat_flash": {
        **{
            k: v
            for k, v in RMS.items()
            if k not in ("num_hidden_layers", "intermediate_size")
        },
        "num_key_value_heads": 4,
        "num_layers": 2,
        "q_lora_rank": 40,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "head_dim": 8,
        "v_head_dim": 20,
        "ffn_hidden_size": 96,
        "expert_ffn_hidden_size": 24,
        "n_routed_experts": 6,
        "zero_expert_num": 3,
        "moe_topk": 3,
        "routed_scaling_factor": 1.5,
    },
    "minimax_m3_vl_text": _M3,
    "minimax_m3_vl": {
        "text_config": {**_M3, **_BLOCKS},
        "vision_config": {
            "hidden_size": 48,
            "intermediate_size": 48,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "image_size": 28,
        },
        "projector_hidden_size": 32,
    },
    "step3p7": {
        "text_config": {
            **RMS,
            **_WINDOWS,
            "head_dim": 32,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 24,
            "share_expert_dim": 40,
            "num_sliding_attention_heads": 6,
            "moe_router_scaling_factor": 1.5,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "swiglu_limits": [None, 0.3, None, 0.4],
            "swiglu_limits_shared": [0.3, None, 0.4, None],
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "default",
                    "rope_theta": 5e4,
                    "partial_rotary_factor": 0.5,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "image_size": 28,
        },
    },
}

CASES: Mapping[str, Mapping[str, Config]] = {
    "hy_v3": {"corrected": {}},
    "flint": {"sinks": {}},
    "kolibri1": {"windows": {}},
    "granitemoe_swa": {
        "sinks": {},
        "shared": {"shared_intermediate_size": 40, "layer_rope_theta": [1e4, 0, 5e4]},
    },
    "cohere_compass_text": {"windows": {}},
    "cohere_compass": {"text": {}},
    "modernbert-decoder": {"windows": {}},
    "muse_glimmer": {"text": {}},
    "mllama": {"text": {}},
    "mimo_v2_flash": {
        "windows": {},
        "unscaled": {"attention_value_scale": None, "attention_bias": True},
    },
    "minimax_m3_vl_text": {
        "dense": {},
        "blocks": _BLOCKS,
    },
    "minimax_m3_vl": {"text": {}},
    "step3p7": {"text": {}},
    "longcat_flash": {"zero_experts": {}, "biases": {"attention_bias": True}},
    "phimoe": {
        "mixed": {"router_jitter_noise": 0.3},
        "longrope": {
            "attention_bias": True,
            "lm_head_bias": True,
            "router_jitter_noise": 0.1,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0 + 0.1 * i for i in range(8)],
                "long_factor": [2.0 + 0.3 * i for i in range(8)],
                "original_max_position_embeddings": 64,
                "short_mscale": 1.2,
                "long_mscale": 1.3,
            },
        },
    },
    "laguna": {
        "heads": {},
        "capped": {"gating": "per-element", "moe_router_logit_softcapping": 1.5},
    },
}

# Positions beyond 16k mean nothing to these. transformers 5.23 keeps phimoe's short
# divisors there; the published code has the long ones.
NEAR: frozenset[str] = frozenset(
    {"phimoe-longrope", "minimax_m3_vl_text-blocks", "minimax_m3_vl"}
)

# transformers counts the blocks from the first slot, padding too.
UNPADDED = frozenset({"minimax_m3_vl_text-blocks", "minimax_m3_vl"})

CLASSES: Mapping[str, str] = {
    "hy_v3": "HYV3ForCausalLM",
    "flint": "FlintForCausalLM",
    "kolibri1": "Kolibri1ForCausalLM",
    "granitemoe_swa": "GraniteMoeSWAForCausalLM",
    "cohere_compass_text": "CohereCompassForCausalLM",
    "cohere_compass": "CohereCompassForConditionalGeneration",
    "modernbert-decoder": "ModernBertDecoderForCausalLM",
    "muse_glimmer": "MuseGlimmerForConditionalGeneration",
    "mllama": "MllamaForConditionalGeneration",
    "mimo_v2_flash": "MiMoV2FlashForCausalLM",
    "phimoe": "PhimoeForCausalLM",
    "longcat_flash": "LongcatFlashForCausalLM",
    "minimax_m3_vl_text": "MiniMaxM3VLForCausalLM",
    "minimax_m3_vl": "MiniMaxM3SparseForConditionalGeneration",
    "step3p7": "Step3p7ForConditionalGeneration",
    "laguna": "LagunaForCausalLM",
    "molmo": "MolmoForCausalLM",
    "mixformer-sequential": "MixFormerSequentialForCausalLM",
    "nemotron-nas": "DeciLMForCausalLM",
    "internvl_chat_phi3": "InternVLChatModel",
    "minimax_m3": "MiniMaxM3ForCausalLM",
}


# Published with code of their own; where there are tests, they rename tensors.
UNVERIFIED: Mapping[str, Config] = {
    "molmo": {
        **{k: v for k, v in RMS.items() if k != "rms_norm_eps"},
        "embedding_size": 128,
        "layer_norm_eps": 1e-2,
        "layer_norm_type": "rms",
        "intermediate_size": 192,
        "qkv_bias": True,
        "weight_tying": False,
    },
    "mixformer-sequential": {
        "vocab_size": 128,
        "n_embd": 64,
        "n_head": 4,
        "n_head_kv": None,
        "n_inner": None,
        "n_layer": 3,
        "n_positions": 64,
        "rotary_dim": 8,
        "architecture": {"block_cls": "parallel", "mlp": {"mlp_cls": "fused_mlp"}},
    },
    "nemotron-nas": {
        **RMS,
        "num_key_value_heads": None,
        "intermediate_size": None,
        "num_hidden_layers": 4,
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
            {
                "attention": {"n_heads_in_group": 1},
                "ffn": {"replace_with_linear": True},
            },
        ],
    },
    "internvl_chat_phi3": {
        "llm_config": {**RMS, "model_type": "phi3"},
        "vision_config": {"hidden_size": 32},
    },
    "minimax_m3": {
        **{k: v for k, v in _M3.items() if k not in ("mlp_layer_types",)},
        "moe_layer_freq": [0, 1, 1, 1],
        "sparse_attention_config": {
            "sparse_attention_freq": [0, 1, 1, 1],
            "sparse_block_size": 4,
            "sparse_disable_index_value": [0, 1, 1, 1],
            "sparse_index_dim": 32,
            "sparse_init_block": 0,
            "sparse_local_block": 1,
            "sparse_num_index_heads": 2,
            "sparse_score_type": "max",
            "sparse_topk_blocks": 2,
        },
    },
}


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    values = FAMILIES.get(family) or UNVERIFIED[family]
    kind = "internvl_chat" if family == "internvl_chat_phi3" else family
    head = {"model_type": kind, "architectures": [CLASSES[family]]}
    return {**values, **head, "torch_dtype": "bfloat16"}
