"""Tiny models whose layers mix residual streams, pool tokens, or attend in ways of
their own, as data.

``FAMILIES`` has the config values of each family; ``CASES`` its variants: name to
the values that differ; ``CLASSES`` its class in transformers; ``MISTAKES`` wrong specs
as in ``support.mistakes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import RMS

Config = Mapping[str, Any]

_SPARSE, _HEAVY = "compressed_sparse_attention", "heavily_compressed_attention"
_YARN: Config = {
    "type": "yarn",
    "factor": 4.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 4096,
}

_LATENT: Config = {
    **RMS,
    "num_key_value_heads": 4,
    "q_lora_rank": 40,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
}
_EXPERTS: Config = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
}

FAMILIES: Mapping[str, Config] = {
    "diffllama": {**RMS, "num_attention_heads": 8, "num_key_value_heads": 4},
    "hy_v4": {
        **_LATENT,
        **_EXPERTS,
        "index_n_heads": 16,
        "index_head_dim": 16,
        "index_topk": 6,
        "hc_mult": 3,
        "hc_magnitude": 1.5,
        "hc_eps": 1e-2,
        "swiglu_limit": 1.5,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "indexer_types": ["full", "shared", "full"],
    },
    "deepseek_v4": {
        "vocab_size": 128,
        "hidden_size": 64,
        # Whole groups of 32, as experts of four bits have.
        "moe_intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "head_dim": 32,
        "qk_rope_head_dim": 8,
        "q_lora_rank": 40,
        "o_groups": 2,
        "o_lora_rank": 20,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "max_position_embeddings": 256,
        "sliding_window": 6,
        "hc_mult": 3,
        "hc_sinkhorn_iters": 4,
        "hc_eps": 1e-3,
        "rms_norm_eps": 1e-2,
        "swiglu_limit": 1.5,
        # Many index heads: with few, scores tie at exactly 0.
        "index_n_heads": 16,
        "index_head_dim": 16,
        "index_topk": 2,
        "layer_types": ["sliding_attention", _SPARSE, _HEAVY, _SPARSE],
        "compress_rates": {_SPARSE: 4, _HEAVY: 5},
        "num_hash_layers": 1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
}

CASES: Mapping[str, Mapping[str, Config]] = {
    "diffllama": {"grouped": {}, "biases": {"attention_bias": True}},
    "hy_v4": {"selects": {}, "all": {"index_topk": 64, "swiglu_limit": 0.7}},
    "deepseek_v4": {
        "rates": {},
        "scaled": {
            "num_hidden_layers": 3,
            "layer_types": [_HEAVY, _SPARSE, "sliding_attention"],
            "mlp_layer_types": ["moe", "hash_moe", "moe"],
            "index_topk": 64,
            "rope_parameters": _YARN,
            "scoring_func": "sigmoid",
        },
    },
}

CLASSES: Mapping[str, str] = {
    "deepseek_v4": "DeepseekV4ForCausalLM",
    "diffllama": "DiffLlamaForCausalLM",
    "hy_v4": "HYV4ForCausalLM",
    "kimi_k3": "KimiK3ForConditionalGeneration",
}

# transformers lets padding into the entries, and sees those by positions.
UNPADDED = frozenset({"deepseek_v4"})
NEAR = frozenset({"deepseek_v4"})


# transformers has no such model.
UNVERIFIED: Mapping[str, Config] = {
    "kimi_k3": {
        "text_config": {
            **_LATENT,
            "model_type": "kimi_linear",
            "hidden_act": "situ",
            "activation_situ_beta": 4.0,
            "activation_situ_linear_beta": 25.0,
            "attn_res_block_size": 2,
            "num_hidden_layers": 5,
            "first_k_dense_replace": 1,
            "mla_use_nope": True,
            "mla_use_output_gate": True,
            "latent_moe_use_norm": True,
            "moe_intermediate_size": 24,
            "moe_router_activation_func": "sigmoid",
            "moe_renormalize": True,
            "num_experts": 8,
            "num_experts_per_token": 3,
            "num_shared_experts": 2,
            "num_expert_group": 1,
            "topk_group": 1,
            "use_grouped_topk": True,
            "topk_method": "noaux_tc",
            "routed_expert_hidden_size": 40,
            "routed_scaling_factor": 1.0,
            "linear_attn_config": {
                "full_attn_layers": [3, 5],
                "kda_layers": [1, 2, 4],
                "gate_lower_bound": -5.0,
                "head_dim": 12,
                "num_heads": 4,
                "short_conv_kernel_size": 4,
                "use_full_rank_gate": True,
            },
        },
        "vision_config": {},
    },
}


def published(family: str) -> dict[str, Any]:
    """A config.json of the family, as the hub has it."""
    head = {"model_type": family, "architectures": [CLASSES[family]]}
    values = FAMILIES.get(family) or UNVERIFIED[family]
    return {**values, **head, "torch_dtype": "bfloat16"}


MISTAKES: tuple[tuple[str, str, str], ...] = (
    (
        "deepseek_v4-rates",
        "hyper: {iterations: 1}\nignore: {hc_sinkhorn_iters: planted}",
        "prompt",
    ),
    ("deepseek_v4-rates", "hyper: {head: null}\nwaive: {'*hc_head*': x}", "prompt"),
    ("deepseek_v4-rates", "hyper: {reach: 1.0}", "decode"),
    (
        "deepseek_v4-rates",
        "weights: {pool_values: attn.compressor.wgate,"
        " pool_gates: attn.compressor.wkv}",
        "prompt",
    ),
    (
        "deepseek_v4-rates",
        "ops: {attn: {window: 7}}\nignore: {sliding_window: planted}",
        "prompt",
    ),
    (
        "deepseek_v4-rates",
        "ops: {attn: {indexer: {top_k: 3}}}\nignore: {index_topk: planted}",
        "decode",
    ),
    (
        "deepseek_v4-rates",
        "ops: {attn: {pool: {norm: {name: attn.compressor.norm, eps: 1.0e-6}}}}",
        "decode",
    ),
    ("deepseek_v4-rates", "ops: {attn: {rope: {style: half}}}", "prompt"),
    ("deepseek_v4-rates", "ops: {attn: {rope: {params: \"=rope('main')\"}}}", "decode"),
    ("deepseek_v4-rates", "ops: {attn: {head_norm: null}}", "prompt"),
    ("deepseek_v4-rates", "weights: {sinks: null}\nwaive: {'*sink': x}", "decode"),
    ("deepseek_v4-rates", "weights: {table: null}\nwaive: {'*.tid2eid': x}", "prompt"),
    (
        "deepseek_v4-rates",
        "ops: {moe: {score: sigmoid}}\nignore: {scoring_func: planted}",
        "prompt",
    ),
    ("deepseek_v4-rates", "ops: {moe: {glu: {cut: activated}}}", "prompt"),
    ("diffllama-grouped", "ops: {attn: {difference: {init: 0.5}}}", "prompt"),
    (
        "diffllama-grouped",
        "weights: {lambda_q1: {name: self_attn.lambda_q2},"
        " lambda_q2: {name: self_attn.lambda_q1}}",
        "decode",
    ),
    ("hy_v4-selects", "hyper: {floor: 0.0}", "prompt"),
    ("hy_v4-selects", "hyper: {reach: 2.0}\nignore: {hc_magnitude: x}", "decode"),
    ("hy_v4-selects", "ops: {attn: {indexer: {turns: first}}}", "decode"),
    (
        "hy_v4-all",
        "weights: {sinks: null}\nwaive: {'*learnable_sink_param': x}",
        "padded",
    ),
)
