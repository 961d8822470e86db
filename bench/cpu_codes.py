"""Random codes in compressed-tensors' pack-quantized format, for timings."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def write_codes(source: Path, out: Path, bits: int, group: int) -> None:
    """Write a checkpoint with random codes in the place of each matrix but the
    embedding's."""
    out.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": [],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**weights, "strategy": "group", "group_size": group},
            }
        },
    }
    (out / "config.json").write_text(json.dumps(config))
    for number, file in enumerate(sorted(source.glob("*.safetensors"))):
        made: dict[str, torch.Tensor] = {}
        for name, weight in load_file(file).items():
            if weight.dim() == 1 or "embed" in name:
                made[name] = weight
                continue
            rows, columns = weight.shape
            stem = name.removesuffix(".weight")
            words = (rows, columns * bits // 32)
            made[f"{stem}.weight_packed"] = torch.randint(
                -(2**31), 2**31 - 1, words, dtype=torch.int32
            )
            scale = torch.rand(rows, columns // group) / (
                columns**0.5 * 2 ** (bits - 2)
            )
            made[f"{stem}.weight_scale"] = scale.to(torch.bfloat16)
            made[f"{stem}.weight_shape"] = torch.tensor([rows, columns])
        save_file(made, out / f"model-{number:05}.safetensors")
    index = {
        name: file.name
        for file in sorted(out.glob("*.safetensors"))
        for name in load_file(file)
    }
    text = json.dumps({"metadata": {}, "weight_map": index})
    (out / "model.safetensors.index.json").write_text(text)
