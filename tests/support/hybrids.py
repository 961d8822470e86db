"""Tiny models that mix scans, short convolutions, attention and experts, as data.

The tables are those of ``support/mixers.py``, which they are a part of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import RMS

Config = Mapping[str, Any]

_EPS_APART: Config = {k: v for k, v in RMS.items() if k != "rms_norm_eps"}
_SPARSE: Config = {
    "moe_intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "routed_scaling_factor": 1.5,
}

_MAMBA: Config = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "state_size": 12,
    "layer_norm_epsilon": 1e-2,
    "time_step_rank": 6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILIES: Mapping[str, Config] = {
    "mamba": _MAMBA,
    "falcon_mamba": {**_MAMBA, "mixer_rms_eps": 1e-2},
    "jamba": {
        **RMS,
        "max_position_embeddings": 256,
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 3,
        "expert_layer_offset": 1,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "mamba_d_state": 12,
        "mamba_dt_rank": 6,
    },
    # transformers clamps steps in prompts only, and cannot start with a bound of 0.
    "nemotron_h": {
        **{k: v for k, v in _EPS_APART.items() if k != "num_hidden_layers"},
        "layers_block_type": [
            "linear_attention",
            "moe",
            "full_attention",
            "mlp",
            "linear_attention",
        ],
        "layer_norm_epsilon": 1e-2,
        "head_dim": 20,
        "mamba_num_heads": 8,
        "mamba_head_dim": 10,
        "ssm_state_size": 12,
        "n_groups": 2,
        "time_step_min": 1e-12,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 40,
        "routed_scaling_factor": 1.5,
    },
    "lfm2_moe": {
        **_EPS_APART,
        **_SPARSE,
        "max_position_embeddings": 256,
        "num_hidden_layers": 4,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "num_dense_layers": 1,
        "norm_eps": 1e-2,
    },
    "lfm3": {
        **_EPS_APART,
        "max_position_embeddings": 256,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "layer_types": ["conv", "full_attention", "conv", "sliding_attention"],
        "sliding_window": 8,
        "norm_eps": 1e-2,
    },
    "kimi_linear": {
        **RMS,
        **_SPARSE,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 20,
        "linear_attn_config": {
            "head_dim": 12,
            "num_heads": 3,
            "short_conv_kernel_size": 4,
            "kda_layers": [1, 2, 4],
            "full_attn_layers": [3],
        },
    },
    "bailing_hybrid": {
        **RMS,
        **_SPARSE,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 20,
        "head_dim": 10,
        "layer_group_size": 3,
        "first_k_dense_replace": 1,
        "n_group": 4,
        "topk_group": 2,
    },
    "falcon_h1": {
        **RMS,
        "max_position_embeddings": 256,
        "mamba_n_heads": 8,
        "mamba_d_ssm": 80,
        "mamba_d_state": 12,
        "mamba_n_groups": 2,
        "embedding_multiplier": 1.5,
        "lm_head_multiplier": 0.8,
        "attention_in_multiplier": 1.1,
        "attention_out_multiplier": 0.7,
        "key_multiplier": 1.3,
        "mlp_multipliers": [0.9, 1.2],
        "ssm_in_multiplier": 1.25,
        "ssm_out_multiplier": 0.6,
        "ssm_multipliers": [0.5, 1.4, 0.9, 1.7, 0.3],
    },
}

CASES: Mapping[str, Mapping[str, Config]] = {
    "mamba": {
        "channels": {},
        "biases": {
            "use_bias": True,
            "use_conv_bias": False,
            "time_step_rank": "auto",
            "conv_kernel": 3,
            "expand": 1,
            "tie_word_embeddings": False,
        },
    },
    "falcon_mamba": {"norms": {}},
    "jamba": {
        "hybrid": {},
        "biases": {
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "mamba_dt_rank": "auto",
            "num_experts": 1,
            "num_experts_per_tok": 1,
        },
    },
    "nemotron_h": {
        "experts": {},
        "latents": {
            "moe_latent_size": 28,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": False,
            "use_conv_bias": False,
            "mlp_bias": True,
        },
    },
    "lfm2_moe": {
        "experts": {},
        "unbiased": {"use_expert_bias": False, "norm_topk_prob": False},
    },
    "lfm3": {
        "gates": {},
        "bare": {
            "use_sandwich_norm": False,
            "use_attention_gate": False,
            "conv_L_cache": 3,
        },
    },
    "kimi_linear": {
        "counted": {},
        "listed": {
            "linear_attn_config": {},
            "linear_head_dim": 12,
            "linear_num_heads": 3,
            "linear_conv_kernel_dim": 3,
            "layer_types": ["full_attention", *["linear_attention"] * 3],
            "mlp_layer_types": ["sparse", "dense", "sparse", "dense"],
            "q_lora_rank": 40,
            "n_group": 4,
            "topk_group": 2,
        },
    },
    "bailing_hybrid": {
        "bounded": {},
        "plain": {
            "kda_safe_gate": False,
            "short_conv_kernel_size": 3,
            "layer_types": ["full_attention", *["linear_attention"] * 3],
        },
    },
    "falcon_h1": {
        "gates": {},
        "norms": {"mamba_rms_norm": True, "mamba_conv_bias": False},
        "biases": {
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
            "mamba_proj_bias": True,
            "projectors_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "ssm_in_multiplier": 1.0,
            "attention_in_multiplier": 1.0,
        },
    },
}

UNPADDED = {"falcon_h1-biases", "mamba-biases", "jamba-biases"}

CLASSES: Mapping[str, str] = {
    "mamba": "MambaForCausalLM",
    "falcon_mamba": "FalconMambaForCausalLM",
    "jamba": "JambaForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
    "lfm2_moe": "Lfm2MoeForCausalLM",
    "lfm3": "Lfm3ForCausalLM",
    "kimi_linear": "KimiLinearForCausalLM",
    "bailing_hybrid": "BailingHybridForCausalLM",
    "falcon_h1": "FalconH1ForCausalLM",
}

MISTAKES: tuple[tuple[str, str, str], ...] = (
    # Layers of one step
    ("nemotron_h-experts", "ops: {mlp: {act: silu}}", "prompt"),
    (
        "nemotron_h-experts",
        "ops: {attn: {rope: {params: '={\"theta\": 10000.0}', dim: =D, style: half}}}",
        "decode",
    ),
    # Experts without a gate, and with few channels
    ("nemotron_h-experts", "ops: {moe: {act: relu}}", "prompt"),
    ("nemotron_h-latents", "ops: {moe: {group_score: max}}", "prompt"),
    # What the router's sum is divided by
    ("lfm2_moe-experts", "ops: {moe: {sum_eps: 0.5}}", "prompt"),
    # Decays of channels, and what goes through few
    ("kimi_linear-counted", "ops: {delta: {decay: {floor: -5.0}}}", "prompt"),
    ("kimi_linear-counted", "ops: {delta: {norm: {act: silu}}}", "decode"),
    (
        "kimi_linear-counted",
        "weights: {mix_gate_down: self_attn.f_a_proj, "
        "mix_decay_down: self_attn.g_a_proj}",
        "prompt",
    ),
    # Latents without positions
    (
        "kimi_linear-counted",
        "ops: {attn: {rope: {when: true, params: '={\"theta\": 10000.0}'}}}",
        "decode",
    ),
    # Attention and a scan side by side, and multipliers
    (
        "falcon_h1-gates",
        "block!: [{op: scan, pre: input_layernorm, scale: =c.ssm_out_multiplier}, "
        "{op: attn, pre: input_layernorm, scale: =c.attention_in_multiplier * "
        "c.attention_out_multiplier}, {op: mlp, pre: pre_ff_layernorm, "
        "scale: '=c.mlp_multipliers[1]'}]",
        "prompt",
    ),
    *(
        ("falcon_h1-gates", f"ops: {{scan: {{{said}}}}}", "prompt")
        for said in (
            "v_scale: 1.0",
            "k_scale: 1.0",
            "q_scale: 1.0",
            "decay: {scale: 1.0}",
            "norm: {gate_scale: 1.0}",
        )
    ),
    ("falcon_h1-gates", "ops: {mlp: {gate_scale: 1.0}}", "decode"),
    (
        "falcon_h1-norms",
        "ops: {scan: {norm: {order: \"='gate_first' if c.mamba_norm_before_gate"
        " else 'norm_first'\"}}}",
        "prompt",
    ),
    # Scans of channels
    ("mamba-channels", "ops: {scan: {conv: {act: null}}}", "prompt"),
    (
        "mamba-channels",
        "weights: {mix_decay_down+mix_k+mix_q: "
        "{layout: '[mix_decay_down:Rd|mix_q:Ns|mix_k:Ns] Ic'}}",
        "decode",
    ),
    (
        "mamba-channels",
        "weights: {mix_decay: {bias: false}}\nwaive: {'*.dt_proj.bias': planted}",
        "prompt",
    ),
    ("falcon_mamba-norms", "ops: {scan: {q_norm: null}}", "prompt"),
    (
        "jamba-hybrid",
        "ops: {scan: {step_norm: null}}\nwaive: {'*.dt_layernorm.weight': planted}",
        "decode",
    ),
    ("jamba-hybrid", "ops: {moe: {renormalise: true}}", "prompt"),
    # Decays that have a floor
    (
        "bailing_hybrid-bounded",
        "ops: {delta: {decay: {floor: null}}}\n"
        "ignore: {kda_safe_gate: planted, kda_lower_bound: planted}",
        "prompt",
    ),
    (
        "bailing_hybrid-bounded",
        "ops: {delta: {decay: {floor: -4.0}}}\n"
        "ignore: {kda_safe_gate: planted, kda_lower_bound: planted}",
        "decode",
    ),
    (
        "lfm3-gates",
        "ops: {attn: {gate: null}}\nwaive: {'*.gate_proj.weight': planted}\n"
        "ignore: {use_attention_gate: planted}",
        "prompt",
    ),
    (
        "lfm3-gates",
        "ops: {attn: {window: null}}\nignore: {sliding_window: planted}",
        "decode",
    ),
)
