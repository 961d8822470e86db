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

FAMILIES: Mapping[str, Config] = {
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
}

CASES: Mapping[str, Mapping[str, Config]] = {
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
}

UNPADDED: set[str] = set()

CLASSES: Mapping[str, str] = {
    "nemotron_h": "NemotronHForCausalLM",
    "lfm2_moe": "Lfm2MoeForCausalLM",
}

MISTAKES: tuple[tuple[str, str, str], ...] = (
    # Layers of one step
    ("nemotron_h-experts", "ops: {mlp: {act: silu}}", "prompt"),
    (
        "nemotron_h-experts",
        "ops: {attn: {rope: {params: '={\"theta\": 10000.0}', dim: =D}}}",
        "decode",
    ),
    # Experts without a gate, and with few channels
    ("nemotron_h-experts", "ops: {moe: {act: relu}}", "prompt"),
    ("nemotron_h-latents", "ops: {moe: {group_score: max}}", "prompt"),
    # What the router's sum is divided by
    ("lfm2_moe-experts", "ops: {moe: {sum_eps: 0.5}}", "prompt"),
)
