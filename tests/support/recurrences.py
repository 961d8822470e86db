"""Tiny models with further kinds of recurrences, as data.

The tables are those of ``support/mixers.py``, which they are a part of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.dense import RMS

Config = Mapping[str, Any]

_OF_GEMMA = ("max_position_embeddings", "tie_word_embeddings")

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
    "recurrent_gemma": {
        **{k: v for k, v in RMS.items() if k not in _OF_GEMMA},
        "hidden_size": 80,
        "num_hidden_layers": 4,
        "block_types": ["recurrent", "attention", "recurrent"],
        "attention_window_size": 8,
        "lru_width": 40,
        "intermediate_size": 192,
        "logits_soft_cap": 4.0,
    },
    "rwkv": {
        "vocab_size": 128,
        "hidden_size": 64,
        "num_hidden_layers": 5,
        "intermediate_size": 96,
        "rescale_every": 2,
        "layer_norm_epsilon": 2e-2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    # transformers clamps steps in prompts only, and cannot start with a bound of 0.
    "zamba2": {
        **{k: v for k, v in RMS.items() if k != "num_key_value_heads"},
        "max_position_embeddings": 256,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", *["hybrid"] * 3],
        "num_mem_blocks": 2,
        "adapter_rank": 10,
        "use_shared_attention_adapter": True,
        "use_mem_rope": True,
        "n_mamba_heads": 8,
        "mamba_d_state": 12,
        "mamba_ngroups": 2,
        "time_step_min": 1e-12,
    },
    "zamba": {
        **RMS,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "n_mamba_heads": 2,
        "mamba_d_state": 12,
        "mamba_dt_rank": 6,
    },
    # Kernels that round to bfloat16 could not be compared.
    "xlstm": {
        "vocab_size": 128,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_heads": 4,
        "chunk_size": 8,
        "autocast_kernel_dtype": "float32",
        "norm_eps": 1e-2,
        "gate_soft_cap": 1.0,
        "output_logit_soft_cap": 4.0,
        "ffn_round_up_to_multiple_of": 24,
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
    "recurrent_gemma": {
        "griffin": {},
        "biases": {"attention_bias": True, "conv1d_width": 3, "lru_width": None},
    },
    "rwkv": {
        "rescaled": {},
        "plain": {
            "rescale_every": 0,
            "intermediate_size": None,
            "tie_word_embeddings": True,
        },
    },
    "xlstm": {"memory": {}},
    "zamba": {
        "parts": {},
        "by_rule": {
            "layers_block_type": None,
            "attn_layer_period": 2,
            "attn_layer_offset": 0,
            "n_mamba_heads": 4,
            "mamba_dt_rank": "auto",
            "num_key_value_heads": 2,
        },
    },
    "zamba2": {
        "adapters": {},
        "one_block": {
            "num_mem_blocks": 1,
            "use_shared_attention_adapter": False,
            "use_mem_rope": False,
            "add_bias_linear": True,
            "num_key_value_heads": 2,
        },
    },
}

# Where the first layer keeps no keys transformers counts no tokens as read, and takes
# each for the first of a padded row.
# The recurrent units of transformers let padding in, and RWKV and xLSTM take no mask.
UNCOUNTED = {"minimax-lightning"}
UNPADDED = {*UNCOUNTED, "recurrent_gemma", "rwkv", "xlstm"}
# With a bias in a projection padding comes into the convolutions.
UNPADDED |= {"zamba2-one_block"}
# A row begins at its first token here, at position 0 there; the others have none.
NEAR = {"recurrent_gemma", "rwkv", "xlstm"}

CLASSES: Mapping[str, str] = {
    "minimax": "MiniMaxForCausalLM",
    "recurrent_gemma": "RecurrentGemmaForCausalLM",
    "rwkv": "RwkvForCausalLM",
    "xlstm": "xLSTMForCausalLM",
    "zamba": "ZambaForCausalLM",
    "zamba2": "Zamba2ForCausalLM",
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
    # Gated linear units
    ("recurrent_gemma-griffin", "ops: {unit: {power: 7.0}}", "prompt"),
    ("recurrent_gemma-griffin", "ops: {unit: {conv: {act: silu}}}", "decode"),
    ("recurrent_gemma-griffin", "ops: {unit: {act: silu}}", "prompt"),
    ("recurrent_gemma-griffin", "embed: {scale: =E ** 0.5}", "prompt"),
    (
        "recurrent_gemma-griffin",
        "weights: {mix_input: {name: temporal_block.rg_lru.recurrent_gate_weight, "
        "bias_name: temporal_block.rg_lru.recurrent_gate_bias}, "
        "mix_decay: {name: temporal_block.rg_lru.input_gate_weight, "
        "bias_name: temporal_block.rg_lru.input_gate_bias}}",
        "prompt",
    ),
    # Means that favour near tokens, and blends of neighbours
    (
        "rwkv-rescaled",
        "weights: {mix_rate: {name: attention.time_first, bare: true}, "
        "mix_first: {name: attention.time_decay, bare: true}}",
        "prompt",
    ),
    (
        "rwkv-rescaled",
        "weights: {blend_k: {name: attention.time_mix_value}, "
        "blend_v: {name: attention.time_mix_key}}",
        "prompt",
    ),
    (
        "rwkv-rescaled",
        "weights: {ff_blend_up: {name: feed_forward.time_mix_receptance}, "
        "ff_blend_gate: {name: feed_forward.time_mix_key}}",
        "decode",
    ),
    ("rwkv-rescaled", "let: {every: =7}\nignore: {rescale_every: planted}", "prompt"),
    ("rwkv-rescaled", "ops: {ff: {act: relu}}", "prompt"),
    # Memories with exponential gates
    (
        "xlstm-memory",
        "ops: {scan: {memory: {cap: 2.0}}}\nignore: {gate_soft_cap: planted}",
        "prompt",
    ),
    (
        "xlstm-memory",
        "ops: {scan: {memory: {eps: 0.1}}}\nignore: {eps: planted}",
        "decode",
    ),
    ("xlstm-memory", "ops: {scan: {scale: 1.0}}", "prompt"),
    ("xlstm-memory", "ops: {scan: {norm: {centred: false}}}", "prompt"),
    (
        "xlstm-memory",
        "weights: {mix_input: {name: mlstm_layer.fgate_preact}, "
        "mix_forget: {name: mlstm_layer.igate_preact}}",
        "decode",
    ),
    # Weights that layers share, with adapters of each
    (
        "zamba2-adapters",
        "per_layer: {use: \"=str(number % c.num_mem_blocks) if shares else ''\"}\n"
        "waive: {'*_adapter_list.*': planted}",
        "prompt",
    ),
    (
        "zamba2-adapters",
        "block!: [{op: scan, pre: \"=own + 'input_layernorm'\"}]\n"
        "waive: {'*.shared_transformer.*': planted, '*.linear.weight': planted}",
        "prompt",
    ),
    ("zamba2-adapters", "ops: {attn: {scale: =D ** -0.5}}", "decode"),
    (
        "zamba2-adapters",
        "ops: {attn: {rope: {when: false}}}\nignore: {use_mem_rope: planted}",
        "decode",
    ),
    # Channels in parts that are scanned by themselves
    (
        "zamba-parts",
        "weights: {mix_v+mix_gate: {layout: '[mix_v:Ic|mix_gate:Ic] E'}}",
        "prompt",
    ),
    ("zamba-parts", "ops: {attn: {scale: =D ** -0.5}}", "decode"),
    (
        "zamba-parts",
        "weights: {mix_decay_down+mix_k+mix_q: "
        "{layout: 'Hb [mix_decay_down:Rd|mix_q:Ns|mix_k:Ns] Bi'}}",
        "prompt",
    ),
)
