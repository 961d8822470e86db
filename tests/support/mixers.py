"""Tiny models whose layers scan tokens, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ; ``CLASSES`` its class in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

FAMILIES: Mapping[str, Config] = {
    "qwen3_next": {**_DELTA, **_EXPERTS},
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
}

CLASSES: Mapping[str, str] = {
    "qwen3_next": "Qwen3NextForCausalLM",
}


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    return {**FAMILIES[family], **head, "torch_dtype": "bfloat16"}
