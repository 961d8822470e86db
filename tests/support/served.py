"""The models that are run in vLLM: checkpoints as small as its attention takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from glmc.backends.torch.weights import random_checkpoint
from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import load_model
from glmc.ir.lower import lower
from support import GOLDEN, edits, hub_formats, tiny
from support.variants import BY_NAME

#: vLLM's attention on CPUs has heads of 32 channels and more.
WIDE = {"head_dim": 32, "max_position_embeddings": 512}
WIDER = {"hidden_size": 128, "max_position_embeddings": 512}

#: Variants of `support.variants`, and the sizes that differ.
VARIANTS: Mapping[str, dict[str, Any]] = {
    "llama-gqa": WIDE,
    "qwen3-tied": WIDE,
    "qwen2-window": WIDER,
    "glm4-sandwich": WIDE,
    "gemma2-capped": WIDE,
    "gemma3_text-two_ropes": WIDE,
    "gemma4_text-shared": WIDE | {"global_head_dim": 32},
    "cohere-parallel": WIDER,
    "gpt_oss-sinks": WIDE,
    "mixtral-window": WIDE,
    "mpt-alibi": {"d_model": 128, "max_seq_len": 512},
    "gpt2-tied": {"n_embd": 128, "n_positions": 512},
    "deepseek_v2-groups": {
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "max_position_embeddings": 512,
    },
    "qwen3_next-interval": WIDE,
    "lfm2-gates": WIDER,
    "mamba-channels": {},
}
#: Models of whose texts vLLM keeps no beginnings for others: latents on a CPU, and
#: states of a request without any keys.
UNSHARED = ("deepseek_v2-groups", "mamba-channels")
#: What a model needs of vLLM beside what all have.
ENGINE: Mapping[str, dict[str, Any]] = {
    # Its latent attention for CPUs with AMX takes bfloat16 only, and the other reads a
    # prompt at once.
    "deepseek_v2-groups": {
        "attention_backend": "CPU_MLA",
        "max_num_batched_tokens": 256,
    },
}


def variant(name: str, folder: Path) -> Path:
    """Write the checkpoint of a variant with these sizes."""
    one = BY_NAME[name]
    tiny.make(replace(one, values={**one.values, **VARIANTS[name]}), folder)
    return folder


def chatglm3(folder: Path) -> Path:
    """Write a checkpoint of ChatGLM3, whose type transformers does not know."""
    config = edits.read_config(GOLDEN / "chatglm3")
    wide = {"kv_channels": 32, "hidden_size": 128, "seq_length": 512}
    edits.write_config(folder, {**config, **wide})
    program = lower(load_model(resolve_source(str(folder))).model)
    tensors = {k: v.contiguous() for k, v in random_checkpoint(program).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def gptq(folder: Path, checkpoint: Path) -> Path:
    """Write a Llama again with int4 codes in GPTQ's format."""
    coded, _ = hub_formats.pair(checkpoint, folder, hub_formats.FORMATS["gptq"])
    return coded


def architecture(checkpoint: Path) -> str:
    """The class that a config names."""
    config = json.loads((checkpoint / "config.json").read_text())
    return str(config["architectures"][0])
