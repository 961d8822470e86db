"""Tiny models whose layers scan tokens, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ; ``CLASSES`` its class in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support import hybrids, recurrences
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

_PLAIN: Config = {k: v for k, v in _DELTA.items() if k != "head_dim"}
_OTHER = {"rms_norm_eps", *(k for k in _PLAIN if k.startswith("linear_"))}
_MAMBA: Config = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 12,
    "mamba_n_groups": 2,
}

FAMILIES: Mapping[str, Config] = {
    "granitemoehybrid": {
        **RMS,
        **_MAMBA,
        "max_position_embeddings": 256,
        "num_hidden_layers": 3,
        "layer_types": ["mamba", "attention", "mamba"],
        "shared_intermediate_size": 40,
        "num_local_experts": 4,
        "embedding_multiplier": 1.5,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
    "lfm2": {
        **{k: v for k, v in _PLAIN.items() if k not in _OTHER},
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
        "norm_eps": 1e-2,
        "block_multiple_of": 20,
        "block_ffn_dim_multiplier": 1.3,
    },
    "mamba2": {
        "vocab_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 12,
        "n_groups": 2,
        "layer_norm_epsilon": 1e-2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "bamba": {
        **RMS,
        "max_position_embeddings": 256,
        **_MAMBA,
        "attn_layer_indices": [1],
    },
    # transformers saves the convolutions as thirds, whatever their widths: these are.
    "olmo_hybrid": {**_PLAIN, "linear_key_head_dim": 30},
    "qwen3_next": {**_DELTA, **_EXPERTS},
    "qwen3_5_text": {**_DELTA, **_ROPE},
    "qwen3_5_moe_text": {**_SPARSE, **_EXPERTS, **_ROPE},
    "qwen3_5": {"text_config": {**_DELTA, **_ROPE}, "vision_config": _EYES},
    "qwen3_5_moe": {
        "text_config": {**_SPARSE, **_EXPERTS, **_ROPE},
        "vision_config": _EYES,
    },
    **hybrids.FAMILIES,
    **recurrences.FAMILIES,
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
    "lfm2": {
        "gates": {},
        "biases": {
            "conv_bias": True,
            "conv_L_cache": 4,
            "block_auto_adjust_ff_dim": False,
            "tie_word_embeddings": True,
        },
    },
    "granitemoehybrid": {
        "experts": {},
        "dense": {
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "position_embedding_type": "rope",
            "mamba_d_conv": 3,
        },
    },
    "mamba2": {
        "groups": {},
        "biases": {
            "use_bias": True,
            "use_conv_bias": False,
            "n_groups": 1,
            "conv_kernel": 3,
        },
    },
    "bamba": {
        "hybrid": {},
        "biases": {
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "mamba_n_groups": 1,
            "attention_bias": True,
            "mlp_bias": True,
        },
    },
    "olmo_hybrid": {
        "reflections": {},
        "no_rope": {
            "linear_allow_neg_eigval": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": None},
        },
    },
    "qwen3_5": {"text": {}},
    **hybrids.CASES,
    **recurrences.CASES,
}

# With a bias in a projection transformers lets padding into the convolutions.
UNPADDED = (
    {"mamba2-biases", "bamba-biases", "lfm2-biases"}
    | hybrids.UNPADDED
    | recurrences.UNPADDED
)
NEAR = recurrences.NEAR
# transformers counts positions from 0 in every call, unless it is given them.
UNCOUNTED = {"bamba"} | recurrences.UNCOUNTED

CLASSES: Mapping[str, str] = {
    "qwen3_next": "Qwen3NextForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "bamba": "BambaForCausalLM",
    "olmo_hybrid": "OlmoHybridForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
    **hybrids.CLASSES,
    **recurrences.CLASSES,
}

# What a spec says instead, and the scenario that shows it: see support/mistakes.py.
MISTAKES: tuple[tuple[str, str, str], ...] = (
    (
        "granitemoehybrid-experts",
        "ops: {attn: {rope: {when: true}}}\nignore: {position_embedding_type: planted}",
        "prompt",
    ),
    (
        "lfm2-gates",
        "weights: {mix_k+mix_q+mix_v: {layout: '[mix_q:Ec|mix_k:Ec|mix_v:Ec] E'}}",
        "prompt",
    ),
    ("lfm2-gates", "ops: {conv: {conv: {act: silu}}}", "decode"),
    ("mamba2-groups", "ops: {scan: {decay: {steps: false}}}", "prompt"),
    ("mamba2-groups", "ops: {scan: {norm: {of: all}}}", "prompt"),
    ("mamba2-groups", "ops: {scan: {norm: {order: norm_first}}}", "prompt"),
    (
        "mamba2-groups",
        "weights: {mix_skip: {name: mixer.A_log, bare: true}}\n"
        "waive: {'*.mixer.D': planted}",
        "prompt",
    ),
    (
        "mamba2-groups",
        "weights: {conv_v+conv_k+conv_q: {bias: false}}\n"
        "ignore: {use_conv_bias: planted}\nwaive: {'*.conv1d.bias': planted}",
        "prompt",
    ),
    (
        "mamba2-groups",
        "weights: {conv_v+conv_k+conv_q: {layout: "
        "'[conv_v:(Hm Dv)|conv_q:(Gm Dk)|conv_k:(Gm Dk)] 1 Wc'}}",
        "decode",
    ),
    ("bamba-hybrid", "ops: {attn: {rope: {dim: =D}}}", "prompt"),
    (
        "olmo_hybrid-reflections",
        "ops: {delta: {beta_scale: 1.0}}\nignore: {linear_allow_neg_eigval: planted}",
        "prompt",
    ),
    ("olmo_hybrid-reflections", "ops: {delta: {norm: {eps: 1.0e-2}}}", "decode"),
    (
        "olmo_hybrid-no_rope",
        "ops: {attn: {rope: {when: true}}}",
        "prompt",
    ),
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
    *hybrids.MISTAKES,
    *recurrences.MISTAKES,
)


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    return {**FAMILIES[family], **head, "torch_dtype": "bfloat16"}
