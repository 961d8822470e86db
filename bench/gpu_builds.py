"""Builds and configs for `gpu.py`, compiled where glmc is, to be carried elsewhere."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmc import compile_model
from glmc.frontends.spec.library import builtin_configs

QWEN3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "tie_word_embeddings": False,
    "max_window_layers": 36,
}
LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
TINY_LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TINY_GLM = {
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 16,
    "padded_vocab_size": 128,
}


@dataclass(frozen=True)
class Shape:
    """A model to measure: a built-in config, with changes."""

    name: str
    config: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    #: Codes that its weights are published in, beside the floats: its spec says so.
    bits: tuple[int, ...] = ()


SHAPES = (
    Shape("llama-1b", "llama-3.1-8b", LLAMA_1B),
    Shape("llama-3.1-8b", "llama-3.1-8b"),
    Shape("chatglm3-6b", "chatglm3-6b", bits=(8, 4)),
    Shape("glm-4-9b", "glm-4-9b-0414"),
    Shape("qwen3-8b", "qwen3-0.6b", QWEN3_8B),
)
TINY = (
    Shape("tiny-llama", "llama-3.1-8b", TINY_LLAMA),
    Shape("tiny-glm", "chatglm3-6b", TINY_GLM, bits=(8,)),
)


def write(shape: Shape, out: Path) -> Iterator[str]:
    """Compiles a shape for floats and for each of its codes; yields the names.

    Beside each build lies `NAME.json`, its config, for transformers.
    """
    config = json.loads(builtin_configs()[shape.config].read_text()) | shape.changes
    for bits in (0, *shape.bits):
        name = f"{shape.name}-int{bits}" if bits else shape.name
        source = out / f"{name}.json"
        quantized = {"quantization_bit": bits} if bits else {}
        source.write_text(json.dumps(config | quantized, indent=1))
        # A package is imported by the name of its folder.
        compile_model(source, out / name.replace("-", "_").replace(".", "_"))
        yield name


def main() -> None:
    """Compile all shapes into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=Path("build/gpu"))
    parser.add_argument("--only", nargs="*", help="names of shapes")
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    head = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    said = subprocess.run(head, capture_output=True, text=True, check=False)
    (options.out / "commit.txt").write_text(said.stdout or "unknown\n")
    for shape in TINY if options.tiny else SHAPES:
        if not options.only or shape.name in options.only:
            for name in write(shape, options.out):
                print(name)


if __name__ == "__main__":
    main()
