"""The tiny models whose layers hand values to later ones, as data: Gemma 4.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

_SLIDING, _FULL = "sliding_attention", "full_attention"
# Heads of layers without a window are twice as wide, and half of them turn there.
_UNIFIED: Config = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "layer_types": [_SLIDING, _FULL, _SLIDING, _FULL],
    "sliding_window": 8,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_TEXT: Config = {
    **_UNIFIED,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 128,
}
_PARTS: Config = {"hidden_size_per_layer_input": 12}
# Each kind of layer twice with a cache, so that the wrong one of two can be read.
_SHARED: Config = {
    "num_hidden_layers": 7,
    "num_kv_shared_layers": 3,
    "layer_types": [_SLIDING, _FULL, _SLIDING, _FULL, _SLIDING, _SLIDING, _FULL],
}
_EXPERTS: Config = {
    "enable_moe_block": True,
    "num_experts": 6,
    "top_k_experts": 2,
    "moe_intermediate_size": 24,
}
_EYES: Config = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "position_embedding_size": 64,
}

FAMILIES: Mapping[str, Config] = {
    "gemma4_text": _TEXT,
    "gemma4_unified_text": _UNIFIED,
    "gemma4": {
        "text_config": {**_TEXT, **_PARTS},
        "vision_config": _EYES,
        "audio_config": None,
    },
    "gemma4_unified": {
        "text_config": _UNIFIED,
        "vision_config": {
            "patch_size": 4,
            "pooling_kernel_size": 1,
            "mm_embed_dim": 32,
            "mm_posemb_size": 8,
            "output_proj_dims": 64,
        },
        "audio_config": None,
    },
}

CASES: Mapping[str, Mapping[str, Config]] = {
    "gemma4_text": {
        "dense": {},
        "parts": _PARTS,
        # Without parts of their own transformers generates nothing from shared caches;
        # gemma4_unified_text has these.
        "shared": {**_SHARED, **_PARTS, "use_double_wide_mlp": True},
        "experts": {**_EXPERTS, "final_logit_softcapping": 5.0},
        "experts_parts": {**_EXPERTS, **_PARTS},
        "equal": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        "everything": {
            **_SHARED,
            **_PARTS,
            **_EXPERTS,
            "attention_k_eq_v": True,
            "attention_bias": True,
            "final_logit_softcapping": 5.0,
        },
    },
    "gemma4_unified_text": {
        "dense": {},
        "shared": {**_SHARED, "attention_k_eq_v": True},
    },
    "gemma4": {"text": {}},
    "gemma4_unified": {"text": {}},
}

CLASSES: Mapping[str, str] = {
    "gemma4_text": "Gemma4ForCausalLM",
    "gemma4_unified_text": "Gemma4UnifiedForCausalLM",
    "gemma4": "Gemma4ForConditionalGeneration",
    "gemma4_unified": "Gemma4UnifiedForConditionalGeneration",
}


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    return {**FAMILIES[family], **head, "torch_dtype": "bfloat16"}
