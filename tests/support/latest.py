"""The tiny models of the types that came last, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ; ``CLASSES`` its class in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import RMS
from support.mixed import FAMILIES as MIXED

Config = Mapping[str, Any]

# Sizes of the layers with a window differ from those of the others.
_SMALLER: Config = {
    "head_dim": 24,
    "kv_lora_rank": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 16,
    "v_head_dim": 12,
}
_KINDS = ["indexed_attention", "sliding_attention"] * 2

_DOTS3: Config = {
    **{k: v for k, v in MIXED["deepseek_v32"].items() if k != "first_k_dense_replace"},
    "num_hidden_layers": 4,
    "layer_types": _KINDS,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "sliding_window": 8,
    "head_dim": 20,
    "shared_experts_intermediate_size": 40,
    "per_layer_config": {"1": _SMALLER, "3": _SMALLER},
}

_GEMMA3N: Config = {
    "vocab_size": 128,
    # Some tokens have no row of their own there.
    "vocab_size_per_layer_input": 100,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 12,
    "intermediate_size": [96, 80, 96, 96],
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_kv_shared_layers": 1,
    "layer_types": [
        "sliding_attention",
        "full_attention",
        "sliding_attention",
        "sliding_attention",
    ],
    "sliding_window": 8,
    "laurel_rank": 6,
    "altup_num_inputs": 3,
    "activation_sparsity_pattern": [0.9, 0.8, 0.0, 0.0],
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-2,
    "final_logit_softcapping": 5.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILIES: Mapping[str, Config] = {
    "axk2": {**MIXED["deepseek_v32"], "gated_norm_rank": 6},
    "dots3_note_text": _DOTS3,
    "gemma3n_text": _GEMMA3N,
    "beam": {
        **RMS,
        "head_dim": 32,
        "num_hidden_layers": 4,
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", *["full_attention"] * 3],
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "final_logit_softcapping": 5.0,
    },
    "jetmoe": {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "kv_channels": 16,
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "dots3_note": {
        "text_config": _DOTS3,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "adapter_in_dim": 32,
            "adapter_out_dim": 64,
            "mlp_layer_types": ["dense"],
        },
        "audio_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "feature_size": 16,
            "downsample_hidden_size": 8,
            "adapter_input_size": 32,
            "adapter_out_dim": 64,
        },
    },
}

CASES: Mapping[str, Mapping[str, Config]] = {
    "axk2": {
        # As many experts as a group has, so that those below 0 are not chosen.
        "groups": {
            "n_routed_experts": 12,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 6,
        },
        "light": {"n_group": None, "topk_group": None},
    },
    "dots3_note_text": {
        "windows": {},
        "full": {"layer_types": ["full_attention", *_KINDS[1:]], "use_dsa": None},
    },
    "dots3_note": {"text": {}},
    "beam": {
        "factors": {},
        "alternating": {
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "attention_bias": True,
            "final_logit_softcapping": None,
            "norm_topk_prob": False,
        },
    },
    "jetmoe": {"heads": {}, "untied": {"tie_word_embeddings": False}},
    "gemma3n_text": {
        "streams": {},
        "active": {
            "altup_active_idx": 1,
            "altup_correct_scale": False,
            "attention_bias": True,
        },
    },
}

CLASSES: Mapping[str, str] = {
    "axk2": "AXK2ForCausalLM",
    "dots3_note_text": "Dots3NoteForCausalLM",
    "beam": "BeamForCausalLM",
    "jetmoe": "JetMoeForCausalLM",
    "gemma3n_text": "Gemma3nForCausalLM",
    "dots3_note": "Dots3NoteForConditionalGeneration",
    "gemma3n": "Gemma3nForConditionalGeneration",
}

# transformers makes its eyes with a library that the tests do without.
UNVERIFIED: Mapping[str, Config] = {
    "gemma3n": {"text_config": _GEMMA3N},
}


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    values = FAMILIES.get(family) or UNVERIFIED[family]
    return {**values, **head, "torch_dtype": "bfloat16"}
