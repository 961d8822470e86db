"""The tiny models of the parity tests, as data: family, name, config values.

Sizes are small and pairwise different where a mix-up could hide; epsilons are large
so that a wrong one shows in the logits; windows are shorter than the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import (
    carried,
    composites,
    dense,
    further,
    latest,
    mixed,
    mixers,
    streams,
    wrapped,
)

Config = Mapping[str, Any]

_ROPE_THETA = 10_000.0
# Shared by every family that follows Llama's names.
_LLAMA_LIKE: Config = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-2,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_WINDOWED: Config = {
    "num_hidden_layers": 4,
    "use_sliding_window": True,
    "sliding_window": 8,
    "max_window_layers": 2,
}
_MOE: Config = {
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
}
_MLA: Config = {
    "num_key_value_heads": 4,
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
}
# Many index heads: with few, scores tie at exactly 0.
_DSA: Config = {"index_topk": 6, "index_head_dim": 16, "index_n_heads": 16}
_GROUPS: Config = {
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": False,
    "n_shared_experts": 2,
}
_MROPE: Config = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": _ROPE_THETA,
        "partial_rotary_factor": 0.5,
        "mrope_section": [1, 1, 2],
    }
}
_EYES: Config = {
    "depth": 1,
    "hidden_size": 16,
    "num_heads": 2,
    "image_size": 28,
    "intermediate_size": 16,
    "out_hidden_size": 64,
}
BASE: Mapping[str, Config] = {
    "llama": _LLAMA_LIKE,
    "mistral": {**_LLAMA_LIKE, "sliding_window": 8},
    "qwen2": {**_LLAMA_LIKE, "use_sliding_window": False},
    "qwen3": {**_LLAMA_LIKE, "use_sliding_window": False, "head_dim": 32},
    "glm": {**_LLAMA_LIKE, "head_dim": 16, "attention_bias": True},
    "glm4": {**_LLAMA_LIKE, "head_dim": 16, "attention_bias": True},
    "glm4_moe": {**_LLAMA_LIKE, **_MOE, "head_dim": 16, "attention_bias": True},
    "glm4_moe_lite": {**_LLAMA_LIKE, **_MOE, **_MLA},
    "glm_moe_dsa": {**_LLAMA_LIKE, **_MOE, **_MLA, **_DSA},
    "glm4v": {"text_config": {**_LLAMA_LIKE, **_MROPE}, "vision_config": _EYES},
    "glm4v_moe": {
        "text_config": {**_LLAMA_LIKE, **_MOE, **_MROPE, "head_dim": 16},
        "vision_config": _EYES,
    },
    "gpt2": {
        "vocab_size": 128,
        "n_positions": 64,
        "n_embd": 64,
        "n_layer": 3,
        "n_head": 4,
        "layer_norm_epsilon": 2e-2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    **dense.FAMILIES,
    **mixed.FAMILIES,
    **further.FAMILIES,
    **carried.FAMILIES,
    **wrapped.FAMILIES,
    **latest.FAMILIES,
    **mixers.FAMILIES,
    **streams.FAMILIES,
    **composites.FAMILIES,
}


@dataclass(frozen=True)
class Variant:
    """One tiny model: a family of transformers and the config values that differ."""

    family: str
    name: str
    values: Config = field(default_factory=dict)
    far: bool = True  # whether positions beyond 16k mean anything (not: learned ones)
    padding: bool = True  # whether transformers means the same with padding on the left
    counted: bool = True  # whether transformers counts positions by itself
    attention: str = "eager"  # which of transformers' implementations is right

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"

    @property
    def config(self) -> dict[str, Any]:
        """All keyword arguments of the config class."""
        return {**BASE[self.family], **self.values}


@dataclass(frozen=True)
class Tiny:
    """A variant's checkpoint and the file of transformers' logits on it."""

    variant: Variant
    checkpoint: Path
    reference: Path


def _rope(kind: str, theta: float = _ROPE_THETA, **values: Any) -> Config:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **values}}


_LONGROPE: Config = {
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.3 * i for i in range(8)],
    "original_max_position_embeddings": 16,
}
_LLAMA3: Config = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_PROPORTIONAL: Config = {"partial_rotary_factor": 0.5, "factor": 3.0}
# Lengths for which the ramp between the two betas lies within the 8 frequencies.
_YARN: Config = {"factor": 4.0, "original_max_position_embeddings": 4096}
_YARN_ALL: Config = {
    "factor": 8.0,
    "original_max_position_embeddings": 1024,
    "beta_fast": 24.0,
    "beta_slow": 2.0,
    "attention_factor": 1.3,
    "truncate": False,
}

#: Names of variants whose rope depends on how long a text was when it was cached.
CACHE_MATTERS = ("dynamic", "longrope")

NEAR = mixers.NEAR | composites.NEAR

VARIANTS: tuple[Variant, ...] = (
    Variant("llama", "gqa"),
    Variant("llama", "mha", {"num_key_value_heads": 4}),
    Variant("llama", "mqa", {"num_key_value_heads": 1}),
    Variant("llama", "tied", {"tie_word_embeddings": True}),
    Variant("llama", "biases", {"attention_bias": True, "mlp_bias": True}),
    Variant("llama", "wide_heads", {"head_dim": 24}),
    Variant("llama", "gelu", {"hidden_act": "gelu_pytorch_tanh"}),
    Variant("llama", "theta", _rope("default", 500_000.0)),
    Variant("llama", "linear", _rope("linear", factor=4.0)),
    Variant(
        "llama",
        "dynamic",
        {**_rope("dynamic", factor=4.0), "max_position_embeddings": 16},
    ),
    Variant("llama", "llama3", _rope("llama3", 500_000.0, **_LLAMA3)),
    Variant("llama", "yarn", _rope("yarn", **_YARN)),
    Variant("llama", "yarn_all", _rope("yarn", **_YARN_ALL)),
    Variant("llama", "longrope", _rope("longrope", **_LONGROPE)),
    Variant("llama", "proportional", _rope("proportional", **_PROPORTIONAL)),
    Variant("mistral", "window"),
    Variant("mistral", "full", {"sliding_window": None}),
    Variant("mistral", "wide_heads", {"head_dim": 32, "sliding_window": 5}),
    Variant("qwen2", "full"),
    Variant("qwen2", "window", _WINDOWED),
    Variant("qwen2", "tied", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    Variant("qwen2", "yarn", _rope("yarn", 1e6, **_YARN)),
    Variant("qwen3", "full"),
    Variant("qwen3", "window", _WINDOWED),
    Variant("qwen3", "tied", {"tie_word_embeddings": True}),
    Variant("qwen3", "biases", {"attention_bias": True}),
    Variant("glm", "partial"),
    Variant("glm", "bare", {"attention_bias": False, "num_key_value_heads": 4}),
    Variant("glm", "quarter", _rope("default", partial_rotary_factor=0.25)),
    Variant("glm", "tied", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    Variant("glm4", "sandwich"),
    Variant("glm4", "bare", {"attention_bias": False, "num_key_value_heads": 4}),
    Variant("glm4_moe", "air"),
    Variant("glm4_moe", "qk_norm", {"use_qk_norm": True, "first_k_dense_replace": 2}),
    Variant("glm4_moe", "groups", {**_GROUPS, "first_k_dense_replace": 0}),
    Variant("glm4_moe_lite", "flash"),
    Variant("glm4_moe_lite", "no_query_latent", {"q_lora_rank": None}),
    Variant(
        "glm4_moe_lite",
        "half",
        {"rope_interleave": False, "attention_bias": True, "v_head_dim": 12},
    ),
    Variant(
        "glm4_moe_lite", "yarn", _rope("yarn", **_YARN, mscale=1.0, mscale_all_dim=0.7)
    ),
    Variant("glm_moe_dsa", "selects"),
    Variant("glm_moe_dsa", "dense", {"index_topk": 64}),
    Variant(
        "glm_moe_dsa",
        "shared",
        {
            "num_hidden_layers": 5,
            "first_k_dense_replace": 2,
            "indexer_types": ["full", "shared", "full", "shared", "shared"],
        },
    ),
    Variant("glm4v", "text"),
    Variant("glm4v_moe", "text"),
    Variant("gpt2", "tied", far=False),
    Variant("gpt2", "untied", {"tie_word_embeddings": False}, far=False),
    Variant("gpt2", "inner", {"n_inner": 96}, far=False),
    Variant("gpt2", "unscaled", {"scale_attn_weights": False}, far=False),
    Variant("gpt2", "by_layer", {"scale_attn_by_inverse_layer_idx": True}, far=False),
    Variant("gpt2", "relu", {"activation_function": "relu"}, far=False),
    *(
        Variant(
            family,
            name,
            values,
            far=not {family, f"{family}-{name}"}
            & (dense.NEAR | mixed.NEAR | further.NEAR | streams.NEAR | NEAR),
            padding=not {family, f"{family}-{name}"}
            & (further.UNPADDED | mixers.UNPADDED | streams.UNPADDED),
            counted=not {family, f"{family}-{name}"} & mixers.UNCOUNTED,
            attention="sdpa" if f"{family}-{name}" in dense.SDPA else "eager",
        )
        for family, cases in {
            **dense.CASES,
            **mixed.CASES,
            **further.CASES,
            **carried.CASES,
            **wrapped.CASES,
            **latest.CASES,
            **mixers.CASES,
            **streams.CASES,
            **composites.CASES,
        }.items()
        for name, values in cases.items()
    ),
)

BY_NAME: Mapping[str, Variant] = {str(v): v for v in VARIANTS}
