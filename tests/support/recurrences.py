"""Tiny models with further kinds of recurrences, as data.

The tables are those of ``support/mixers.py``, which they are a part of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import RMS

Config = Mapping[str, Any]

FAMILIES: Mapping[str, Config] = {
    "minimax": {
        **RMS,
        "max_position_embeddings": 256,
        "num_hidden_layers": 5,
        "layer_types": [
            *["linear_attention"] * 2,
            "full_attention",
            *["linear_attention"] * 2,
        ],
        "head_dim": 12,
        "block_size": 7,
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "full_attn_alpha_factor": 1.1,
        "full_attn_beta_factor": 0.9,
        "linear_attn_alpha_factor": 1.3,
        "linear_attn_beta_factor": 0.7,
        "mlp_alpha_factor": 1.2,
        "mlp_beta_factor": 0.8,
    },
}

CASES: Mapping[str, Mapping[str, Config]] = {
    "minimax": {
        "lightning": {},
        "alternating": {
            "layer_types": None,
            "num_attention_heads": 6,
            "sliding_window": 8,
            "tie_word_embeddings": True,
        },
    },
}

# Where the first layer keeps no keys transformers counts no tokens as read, and takes
# each for the first of a padded row.
UNPADDED = {"minimax-lightning"}

CLASSES: Mapping[str, str] = {
    "minimax": "MiniMaxForCausalLM",
}

MISTAKES: tuple[tuple[str, str, str], ...] = (
    # Decays that no token changes
    ("minimax-lightning", "ops: {scan: {steady: {scale: 1.0}}}", "prompt"),
    ("minimax-lightning", "ops: {scan: {steady: {reach: 7.0}}}", "decode"),
    ("minimax-lightning", "ops: {scan: {act: null}}", "prompt"),
    ("minimax-lightning", "ops: {scan: {norm: {of: group}}}", "prompt"),
    (
        "minimax-lightning",
        "weights: {mix_q+mix_k+mix_v: {layout: "
        "'[mix_q:(Hm Dk)|mix_k:(Hm Dk)|mix_v:(Hm Dv)] E'}}",
        "prompt",
    ),
)
