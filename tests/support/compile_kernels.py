"""Run as a module: compile the kernels of some models, and print what they take.

In a process of its own, since Triton compiles only where it does not interpret.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from glmc.backends.triton import OpUse, aot_specs
from glmc.backends.triton.aot import compile_spec
from support.kernels import (
    attention_use,
    emitted,
    full_use,
    norm_use,
    pointwise_use,
    qkv_use,
    quantized_use,
    render,
)

NORMS = [norm_use("rms_norm", 4096), norm_use("add_rms_norm", 4096)]
SHIFTED = [
    norm_use("layer_norm", 768, bias=True),
    norm_use("add_layer_norm", 12288, bias=True),
]
MODELS: dict[str, tuple[str, list[OpUse]]] = {
    "chatglm3": (
        "bf16",
        [
            *NORMS,
            qkv_use(32, 2, 128, rotary=64, style="interleaved"),
            pointwise_use("act_mul", "silu", 27392),
        ],
    ),
    "chatglm v1 with a prefix encoder": (
        "f16",
        [
            qkv_use(32, 32, 128, rotary=128, sections=2, prefix=True, learned=128),
            pointwise_use("activation", "gelu_tanh", 16384),
        ],
    ),
    "qwen3, windows in some layers": (
        "f16",
        [
            qkv_use(32, 8, 128, rotary=128, norm=True),
            qkv_use(32, 8, 128, rotary=128, norm=True, window=4096),
            norm_use("rms_norm", 128, weight_in="f32"),
            pointwise_use("act_mul", "gelu_tanh", 24576),
        ],
    ),
    "gpt2": (
        "f32",
        [*SHIFTED, qkv_use(12, 12, 64), pointwise_use("activation", "gelu", 3072)],
    ),
    "multi-query, 71 heads": ("bf16", [qkv_use(71, 1, 64, rotary=64)]),
    "wide heads": ("bf16", [qkv_use(8, 4, 256, rotary=256, window=512)]),
    "wide heads, f32": ("f32", [qkv_use(16, 1, 256, rotary=256)]),
    "odd heads": ("f16", [qkv_use(32, 32, 80, rotary=32)]),
    "odd heads, f32": ("f32", [*NORMS, qkv_use(64, 2, 96, rotary=96)]),
    "bert": (
        "f16",
        [
            *SHIFTED,
            full_use(12, 12, 64),
            pointwise_use("activation", "gelu", 3072),
            pointwise_use("activation", "tanh", 768),
        ],
    ),
    "encoder, f32": ("f32", [full_use(16, 16, 128)]),
    "encoder, wide": ("bf16", [full_use(8, 2, 256)]),
    "keys unlike values": ("bf16", [attention_use(16, 16, 192, 128)]),
    "int4": ("f16", [quantized_use(4, 4096, 4608, bias=True)]),
    "int8": ("bf16", [quantized_use(8, 13696, 4096)]),
    "int4, f32": ("f32", [quantized_use(4, 4096, 27392)]),
    "int8, f32": ("f32", [quantized_use(8, 4096, 4608, bias=True)]),
}


def main(target: str) -> None:
    """One JSON object a line for each model and kernel."""
    for model, (dtype, uses) in MODELS.items():
        module = emitted(render(*uses))
        for spec in aot_specs(uses, dtype):
            # Attention without padding is the same but for one load: once is enough.
            if "start" in spec.constants and model != "chatglm3":
                continue
            built = compile_spec(module, spec, target)
            found = dataclasses.asdict(built) | {"binary": len(built.binary)}
            print(json.dumps({"model": model, **found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
