"""Write a tiny random checkpoint in ChatGLM3's layout, for trying things out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

FULL = Path(__file__).parent / "configs" / "chatglm3-6b.json"
SHRUNKEN = {
    "hidden_size": 256,
    "ffn_hidden_size": 688,
    "kv_channels": 32,
    "num_attention_heads": 8,
    "multi_query_group_num": 2,
    "num_layers": 4,
    "padded_vocab_size": 1024,
    "seq_length": 512,
    "torch_dtype": "float32",
}


def shapes(config: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that such a checkpoint holds."""
    hidden, ffn = config["hidden_size"], config["ffn_hidden_size"]
    heads, head = config["num_attention_heads"], config["kv_channels"]
    qkv = (heads + 2 * config["multi_query_group_num"]) * head
    vocab = config["padded_vocab_size"]
    yield "transformer.embedding.word_embeddings.weight", (vocab, hidden)
    for i in range(config["num_layers"]):
        layer = f"transformer.encoder.layers.{i}."
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "self_attention.query_key_value.weight", (qkv, hidden)
        yield layer + "self_attention.query_key_value.bias", (qkv,)
        yield layer + "self_attention.dense.weight", (hidden, heads * head)
        yield layer + "post_attention_layernorm.weight", (hidden,)
        yield layer + "mlp.dense_h_to_4h.weight", (2 * ffn, hidden)
        yield layer + "mlp.dense_4h_to_h.weight", (hidden, ffn)
    yield "transformer.encoder.final_layernorm.weight", (hidden,)
    yield "transformer.output_layer.weight", (vocab, hidden)


def write(folder: Path, seed: int = 0) -> Path:
    """Write config.json and model.safetensors to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(FULL.read_text()) | SHRUNKEN
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes(config):
        noise = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.1 * noise if "norm" in name else noise * shape[-1] ** -0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    print(write(parser.parse_args().folder))
