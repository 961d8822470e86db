"""The tiny dense models beyond the first families, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ. ``positions`` says whether far ones mean anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

_TOKENS: Config = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SIZES: Config = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    **_TOKENS,
}
RMS: Config = {
    **_SIZES,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-2,
    "tie_word_embeddings": False,
}
_LAYER: Config = {
    **_SIZES,
    "num_key_value_heads": 2,
    "layer_norm_eps": 2e-2,
    "tie_word_embeddings": False,
}
_GEMMA: Config = {**RMS, "head_dim": 32, "tie_word_embeddings": True}
_CAPPED: Config = {
    **_GEMMA,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
}
_KINDS = ["sliding_attention", "sliding_attention", "full_attention"]
_LAYERED: Config = {"sliding_window": 8, "layer_types": _KINDS}
_GPT: Config = {
    "vocab_size": 128,
    "n_positions": 64,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "layer_norm_epsilon": 2e-2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MULTIPLIERS: Config = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.15,
    "logits_scaling": 2.0,
}

_VISION: Config = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "image_size": 28,
    "patch_size": 14,
}

FAMILIES: Mapping[str, Config] = {
    "gemma": _GEMMA,
    "gemma2": _CAPPED,
    "vaultgemma": _CAPPED,
    "gemma3_text": {**_GEMMA, **_LAYERED, "query_pre_attn_scalar": 24},
    "phi": _LAYER,
    "phi3": {**RMS, "sliding_window": 8},
    "stablelm": _LAYER,
    "starcoder2": {
        **_SIZES,
        "num_key_value_heads": 2,
        "norm_epsilon": 2e-2,
        "sliding_window": 8,
        "tie_word_embeddings": False,
    },
    "olmo": {k: v for k, v in RMS.items() if k != "rms_norm_eps"},
    "olmo2": RMS,
    "olmo3": {**RMS, **_LAYERED},
    "cohere": {**_LAYER, "tie_word_embeddings": True, "logit_scale": 0.25},
    "cohere2": {
        **_LAYER,
        **_LAYERED,
        "head_dim": 32,
        "tie_word_embeddings": True,
        "logit_scale": 0.25,
    },
    "granite": {**RMS, **_MULTIPLIERS},
    "gpt_neox": {k: v for k, v in _LAYER.items() if k != "num_key_value_heads"},
    "gpt_neox_japanese": {
        "vocab_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "intermediate_multiple_size": 2,
        "layer_norm_eps": 2e-2,
        "tie_word_embeddings": False,
        **_TOKENS,
    },
    "gptj": {**_GPT, "rotary_dim": 8, "n_positions": 256},
    "codegen": {**_GPT, "rotary_dim": 8, "n_head": 8, "n_positions": 256},
    "gpt_neo": {
        "vocab_size": 128,
        "max_position_embeddings": 64,
        "hidden_size": 64,
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 8,
        "layer_norm_epsilon": 2e-2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_bigcode": _GPT,
    "falcon": {
        "vocab_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "layer_norm_epsilon": 2e-2,
        "tie_word_embeddings": False,
        **_TOKENS,
    },
    "bloom": {
        "vocab_size": 128,
        "hidden_size": 64,
        "n_layer": 3,
        "n_head": 4,
        "layer_norm_epsilon": 2e-2,
        **_TOKENS,
    },
    "mpt": {
        "vocab_size": 128,
        "d_model": 64,
        "n_layers": 3,
        "n_heads": 4,
        "max_seq_len": 64,
        "layer_norm_epsilon": 2e-2,
        **_TOKENS,
    },
    "opt": {
        "vocab_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "ffn_dim": 96,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 64,
        **_TOKENS,
        "pad_token_id": None,
    },
    "biogpt": {
        **_SIZES,
        "max_position_embeddings": 64,
        "pad_token_id": None,
    },
    "xglm": {
        "vocab_size": 128,
        "d_model": 64,
        "num_layers": 3,
        "attention_heads": 4,
        "ffn_dim": 96,
        "max_position_embeddings": 64,
        **_TOKENS,
    },
    "openai-gpt": {k: v for k, v in _GPT.items() if not k.startswith(("bos", "eos"))},
    "ctrl": {**_GPT, "dff": 96},
    "nemotron": {
        **_SIZES,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "norm_eps": 2e-2,
        "tie_word_embeddings": False,
    },
    "arcee": {**RMS, "head_dim": 32},
    "smollm3": {**RMS, "num_hidden_layers": 4},
    "ministral": {**RMS, **_LAYERED, "head_dim": 32},
    "ministral3": {
        **RMS,
        "head_dim": 32,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "llama_4_scaling_beta": 0.4,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
    },
    "cwm": {**RMS, **_LAYERED, "head_dim": 32},
    "helium": {**RMS, "head_dim": 16},
    "ernie4_5": {**RMS, "head_dim": 32},
    "hunyuan_v1_dense": {**RMS, "head_dim": 32},
    "bitnet": RMS,
    "apertus": RMS,
    "internlm3": {**RMS, "head_dim": 32},
    "iquestcoder": {**RMS, "head_dim": 32},
    "seed_oss": {**RMS, "head_dim": 32},
    "exaone4": {**RMS, **_LAYERED},
    "jais2": {**_LAYER, "head_dim": 32},
    "persimmon": {k: v for k, v in _LAYER.items() if k != "num_key_value_heads"},
    "nanochat": {**RMS, "final_logit_softcapping": 3.0},
    "hyperclovax": {**RMS, **_MULTIPLIERS, "head_dim": 32},
    "gemma3": {
        "text_config": {**_GEMMA, **_LAYERED, "query_pre_attn_scalar": 24},
        "mm_tokens_per_image": 4,
        "vision_config": _VISION,
    },
    "mistral3": {
        "text_config": {**RMS, "model_type": "mistral", "head_dim": 32},
        "vision_config": {**_VISION, "model_type": "pixtral", "head_dim": 16},
    },
    "qwen3_vl": {
        "text_config": {
            **RMS,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "depth": 1,
            "out_hidden_size": 64,
            "deepstack_visual_indexes": [0],
        },
    },
    "granite_swa": {
        **RMS,
        **_LAYERED,
        **_MULTIPLIERS,
        "layer_rope_theta": [10000.0, 50000.0, 0],
    },
}

CASES: Mapping[str, Mapping[str, Config]] = {
    "gemma3": {"text": {}},
    "mistral3": {"text": {}},
    "qwen3_vl": {"text": {}},
    "gemma": {"mqa": {"num_key_value_heads": 1}},
    "gemma2": {
        "capped": {},
        "uncapped": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    },
    "vaultgemma": {"capped": {}},
    "gemma3_text": {"two_ropes": {}},
    "phi": {"gqa": {}, "qk_norms": {"qk_layernorm": True}},
    "phi3": {"window": {}},
    "stablelm": {
        "series": {},
        "qk_norms": {"qk_layernorm": True},
        "parallel": {"use_parallel_residual": True, "use_qkv_bias": True},
    },
    "starcoder2": {"biases": {}, "bare": {"use_bias": False, "sliding_window": None}},
    "olmo": {"clipped": {"clip_qkv": 0.8}, "free": {}},
    "olmo2": {"gqa": {}, "biases": {"attention_bias": True}},
    "olmo3": {"windows": {}},
    "cohere": {"parallel": {}, "qk_norms": {"use_qk_norm": True}},
    "cohere2": {"nope": {}},
    "granite": {"scaled": {}},
    "gpt_neox": {"parallel": {}, "series": {"use_parallel_residual": False}},
    "gpt_neox_japanese": {"series": {}},
    "gptj": {"parallel": {}},
    "codegen": {"four_parts": {}},
    "gpt_neo": {"local": {}},
    "gpt_bigcode": {"mqa": {}, "mha": {"multi_query": False}},
    "falcon": {
        "7b": {"multi_query": True, "parallel_attn": True},
        "40b": {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        "11b": {
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
        },
        "rw": {
            "multi_query": False,
            "parallel_attn": False,
            "alibi": True,
            "bias": True,
        },
    },
    "bloom": {"alibi": {}, "six_heads": {"hidden_size": 96, "n_head": 6}},
    "mpt": {
        "alibi": {},
        "clipped": {"attn_config": {"clip_qkv": 0.8}},
    },
    "opt": {
        "pre_norm": {},
        "post_norm": {"do_layer_norm_before": False, "word_embed_proj_dim": 32},
    },
    "biogpt": {"learned": {}},
    "xglm": {"sinusoids": {}},
    "openai-gpt": {"post_norm": {}},
    "ctrl": {"sinusoids": {}},
    "nemotron": {"gqa": {}},
    "arcee": {"biases": {"attention_bias": True, "mlp_bias": True}},
    "smollm3": {
        "nope": {},
        "window": {"use_sliding_window": True, "sliding_window": 8},
    },
    "ministral": {"windows": {}},
    "ministral3": {"grown_queries": {}},
    "cwm": {"windows": {}},
    "helium": {"gqa": {}},
    "ernie4_5": {"biases": {"use_bias": True}},
    "hunyuan_v1_dense": {
        "late_norms": {},
        "alpha": {
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 1e4,
                "alpha": 100.0,
                "factor": 1.0,
            }
        },
    },
    "bitnet": {"sub_norms": {}},
    "apertus": {"xielu": {}},
    "internlm3": {"biases": {"attention_bias": True, "mlp_bias": True}},
    "iquestcoder": {"gqa": {}},
    "seed_oss": {"biases": {"attention_out_bias": True}},
    "exaone4": {
        "windows": {},
        "full": {"sliding_window": None, "layer_types": ["full_attention"] * 3},
    },
    "jais2": {"biases": {}},
    "persimmon": {"qk_norms": {}},
    "nanochat": {"weightless": {}},
    "granite_swa": {"sinks": {}},
    "hyperclovax": {"post_norms": {}, "bare": {"use_post_norm": False}},
}

# Positions beyond 16k mean nothing to these, or are beyond their table.
NEAR = frozenset(
    {
        "gptj",
        "codegen",
        "gpt_neo",
        "gpt_bigcode",
        "bloom",
        "mpt",
        "opt",
        "biogpt",
        "xglm",
        "openai-gpt",
        "ctrl",
        "falcon-rw",
    }
)
# Where the eager attention of transformers is not what the model means.
SDPA = frozenset({"falcon-rw"})
