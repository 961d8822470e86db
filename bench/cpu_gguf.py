"""Write a Llama checkpoint as GGUF, in bf16 or as codes; for bench/cpu.py.

Run by the Python of an environment that has llama-cpp-python and gguf.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TYPES = {"q8_0": 7, "q4_0": 2}


def named(name: str) -> str:
    """Return a tensor's name in GGUF. Order of a head's channels does not matter to
    how long a product takes."""
    if name in NAMES:
        return NAMES[name]
    _, _, layer, *rest = name.split(".")
    return f"blk.{layer}.{NAMES['.'.join(rest[:-1])]}.weight"


def tensors(folder: Path) -> Any:
    """Yield name, shape and bf16 bytes of each tensor of a folder."""
    for file in sorted(folder.glob("*.safetensors")):
        data = np.memmap(file, dtype=np.uint8, mode="r")
        size = int(data[:8].view(np.uint64)[0])
        header = json.loads(bytes(data[8 : 8 + size]))
        for name, facts in header.items():
            if name != "__metadata__":
                begin, end = facts["data_offsets"]
                yield name, facts["shape"], data[8 + size + begin : 8 + size + end]


def write(folder: Path, out: Path) -> None:
    """Write a checkpoint in bf16, its norms in fp32."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "llama")
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, shape, data in tensors(folder):
        if len(shape) == 1:
            wide = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            writer.add_tensor(named(name), wide)
        else:
            bf16 = gguf.GGMLQuantizationType.BF16
            rows = np.asarray(data).reshape(shape[0], shape[1] * 2)
            writer.add_tensor(named(name), rows, raw_dtype=bf16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Write CHECKPOINT to OUT/bf16.gguf, OUT/q8_0.gguf and OUT/q4_0.gguf."""
    folder, out = map(Path, sys.argv[1:])
    write(folder, out / "bf16.gguf")
    for name, number in TYPES.items():
        given = llama_cpp.llama_model_quantize_default_params()
        given.ftype, given.nthread, given.pure = number, 2, True
        source, target = (str(out / f"{n}.gguf").encode() for n in ("bf16", name))
        code = llama_cpp.llama_model_quantize(source, target, ctypes.byref(given))
        assert code == 0, code


if __name__ == "__main__":
    main()
