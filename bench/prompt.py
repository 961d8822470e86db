"""Time of a prompt on a CPU beside transformers' torch code, for models with mixers."""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from report import Row, show

from glmc import compile_model

_WIDTH = {"vocab_size": 1000, "hidden_size": 1024, "num_hidden_layers": 4}
_SIZES = {**_WIDTH, "intermediate_size": 2048}
_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}
_ATTENDED = {"num_attention_heads": 8, "num_key_value_heads": 8}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_MAMBA = {"num_heads": 32, "head_dim": 64, "state_size": 128, "n_groups": 1}
# Heads as published models have them, few layers, small MLPs: what counts is the mixer.
MODELS: dict[str, dict[str, Any]] = {
    "qwen3_5_text": {
        **_SIZES,
        **_HEADS,
        "linear_num_key_heads": 8,
        "linear_num_value_heads": 16,
    },
    "kimi_linear": {
        **_SIZES,
        **_ATTENDED,
        "linear_num_heads": 8,
        "layer_types": [*["linear_attention"] * 3, "full_attention"],
        "mlp_layer_types": ["dense"] * 4,
    },
    "mamba2": {**_WIDTH, **_MAMBA},
    "mamba": _WIDTH,
    "falcon_mamba": {**_WIDTH, "intermediate_size": 2048},
    "jamba": {
        **_SIZES,
        **_ATTENDED,
        "attn_layer_offset": 3,
        "attn_layer_period": 4,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "mamba_dt_rank": 64,
        "use_mamba_kernels": False,
    },
    "zamba": {
        **_SIZES,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "attention_hidden_size": 2048,
        "attention_head_dim": 128,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "mamba_dt_rank": 64,
        "use_mamba_kernels": False,
    },
    "bailing_hybrid": {
        **_SIZES,
        **_ATTENDED,
        "linear_num_heads": 8,
        "kv_lora_rank": 256,
        "layer_types": [*["linear_attention"] * 3, "full_attention"],
        "mlp_layer_types": ["dense"] * 4,
    },
    "minimax": {
        **_SIZES,
        **_ATTENDED,
        "head_dim": 128,
        "layer_types": [*["linear_attention"] * 3, "full_attention"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
    "recurrent_gemma": {
        **_SIZES,
        **_ATTENDED,
        "intermediate_size": 4096,
        "head_dim": 128,
        "lru_width": 1024,
    },
    "rwkv": {**_SIZES, "attention_hidden_size": 1024, "context_length": 1024},
    "xlstm": {
        **_WIDTH,
        "embedding_dim": 1024,
        "num_heads": 4,
        "autocast_kernel_dtype": "float32",
    },
    "lfm2": {**_SIZES, **_ATTENDED},
}


def written(family: str, folder: Path) -> Path:
    """Write a random checkpoint of a family, as transformers saves it."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **MODELS[family], **_TOKENS)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder


def timed(model: Any, ids: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the seconds of one call, and its last logits."""
    begun = time.perf_counter()
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=True).logits[0, -1]
    return time.perf_counter() - begun, logits


def measure(family: str, options: argparse.Namespace) -> Row:
    """Both models take turns; the medians are compared."""
    with tempfile.TemporaryDirectory() as name:
        checkpoint = written(family, Path(name) / "checkpoint")
        folder = compile_model(checkpoint, Path(name) / f"build_{family}")
        sys.path.insert(0, name)
        build = importlib.import_module(folder.name)
        ours = build.load(str(checkpoint), device="cpu", dtype="float32")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        ids = torch.randint(3, 1000, (1, options.tokens))
        found = [[timed(model, ids) for model in (ours, theirs)]]
        difference = (found[0][0][1] - found[0][1][1]).abs().max()
        found = [
            [timed(model, ids) for model in (ours, theirs)]
            for _ in range(options.rounds)
        ]
    mine, other = (statistics.median(pair[at][0] for pair in found) for at in range(2))
    return {
        "model type": family,
        "tokens": options.tokens,
        "glmc s": mine,
        "transformers s": other,
        "ratio": other / mine,
        "logits differ by": float(difference),
    }


def main() -> None:
    """Measure each family, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", choices=[[], *MODELS], default=[])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = options.families or list(MODELS)
    show([measure(name, options) for name in names], options.json)


if __name__ == "__main__":
    main()
