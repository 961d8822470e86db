"""Predict each launch of decode on a GPU, from the binaries of the kernels.

`python bench/gpu_paper.py` compiles published shapes, predicts a token of each on a
machine without a GPU, and writes `paper.json` beside it, of which `gpu_report.py` makes
a section of `docs/performance.md`. Nothing is measured: see `glmc inspect --kernels`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpu_builds import SHAPES, write

from glmc import compile_model
from glmc.look import paper, roofline
from glmc.look.builds import Build
from glmc.look.devices import Device, device

# As published; what only training or generation reads is left out. DeepSeek-V2-Lite's
# sizes were written down without its file at hand.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "hidden_act": "silu",
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    },
    "deepseek-v2-lite": {
        "model_type": "deepseek_v2",
        "architectures": ["DeepseekV2ForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "hidden_act": "silu",
        "max_position_embeddings": 163840,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "vocab_size": 102400,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    },
    "qwen3-next-80b-a3b": {
        "model_type": "qwen3_next",
        "architectures": ["Qwen3NextForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_hidden_layers": 48,
        "full_attention_interval": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "hidden_act": "silu",
        "max_position_embeddings": 262144,
        "partial_rotary_factor": 0.25,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000000,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    },
    "falcon-mamba-7b": {
        "model_type": "falcon_mamba",
        "architectures": ["FalconMambaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 8192,
        "num_hidden_layers": 64,
        "state_size": 16,
        "conv_kernel": 4,
        "time_step_rank": 256,
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "layer_norm_epsilon": 1e-5,
        "mixer_rms_eps": 1e-6,
        "vocab_size": 65024,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    },
    "recurrentgemma-2b": {
        "model_type": "recurrent_gemma",
        "architectures": ["RecurrentGemmaForCausalLM"],
        "hidden_size": 2560,
        "intermediate_size": 15360,
        "num_hidden_layers": 26,
        "num_attention_heads": 10,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "lru_width": 2560,
        "conv1d_width": 4,
        "block_types": ["recurrent", "recurrent", "attention"],
        "attention_window_size": 2048,
        "hidden_activation": "gelu_pytorch_tanh",
        "logits_soft_cap": 30.0,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "vocab_size": 256000,
        "torch_dtype": "bfloat16",
    },
}
PAPER = Path(__file__).with_name("paper.json")
SHOWN = (
    *("kernel", "times", "time", "programs", "waves", "tail", "reads"),
    *("enough", "issue", "limit"),
)
DENSE = ("chatglm3-6b", "llama-3.1-8b", "qwen3-8b")


def builds(folder: Path, only: list[str] | None) -> Iterator[tuple[str, Build]]:
    """Compile the shapes into a folder, one after another."""
    for shape in SHAPES:
        if shape.name in DENSE and (not only or shape.name in only):
            for name in write(shape, folder):
                yield name, Build(folder / name.replace("-", "_").replace(".", "_"))
    for name, config in CONFIGS.items():
        if not only or name in only:
            source = folder / f"{name}.json"
            source.write_text(json.dumps(config))
            out = folder / name.replace("-", "_")
            compile_model(source, out)
            yield name, Build(out)


def predicted(build: Build, on: Device, context: int) -> dict[str, Any]:
    """Predict a token of one row: the whole, and every launch."""
    call = roofline.call_of(1, context, 1)
    facts = paper.facts(paper.launches(build, call, on), call, on)
    costs = roofline.lines(build.program, call, on, build.target)
    without = [row for row in build.placements if row.where == "reference"]
    return {
        "launches": [{key: row[key] for key in SHOWN} for row in facts["launches"]],
        "time": facts["total"],
        "floor": roofline.total(costs).floor,
        "without a kernel": sum(row.layers for row in without),
    }


def main() -> None:
    """Predict every shape, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=PAPER)
    parser.add_argument("--device", default="h200")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--only", nargs="*", help="names of shapes")
    options = parser.parse_args()
    on = device(options.device, "--device")
    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, build in builds(Path(folder), options.only):
            models[name] = predicted(build, on, options.context)
            found = models[name]
            print(f"{name}: {found['time']:,.0f} µs, floor {found['floor']:,.0f} µs")
            result = {"device": on.name, "context": options.context, "models": models}
            options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
