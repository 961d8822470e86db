"""float8 checkpoints (e4m3, a scale per block) are their dequantised twins, exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc import compile_model
from glmc.command.cli import main
from glmc.ir.errors import GlmcError
from support import builds, edits
from support import tiny as tinies
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Tensors = dict[str, torch.Tensor]

BLOCK = (32, 24)  # neither divides all sizes of the tiny models
QUANTISATION: Mapping[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": list(BLOCK),
    "modules_to_not_convert": ["lm_head", "model.embed_tokens", "model.norm"],
}
IDS = torch.tensor([[5, 17, 3, 42, 11, 8, 29]])


def blocks(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(codes, scale of every block, what they stand for), block by block."""
    height, width = (-(-n // b) for n, b in zip(weight.shape, BLOCK, strict=True))
    codes = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    scale, value = torch.empty(height, width), torch.empty(weight.shape)
    for row in range(height):
        for column in range(width):
            place = (
                slice(row * BLOCK[0], (row + 1) * BLOCK[0]),
                slice(column * BLOCK[1], (column + 1) * BLOCK[1]),
            )
            scale[row, column] = weight[place].abs().max() / 448
            codes[place] = (weight[place] / scale[row, column]).to(codes.dtype)
            value[place] = codes[place].float() * scale[row, column]
    return codes, scale, value


def is_linear(name: str) -> bool:
    return ".layers." in name and name.endswith("_proj.weight")


def pair(
    source: Path, folder: Path, chosen: Callable[[str], bool] = is_linear
) -> tuple[Path, Path]:
    """(float8 folder, its float twin) of a tiny checkpoint."""
    stored: Tensors = {}
    twin: Tensors = {}
    for name, tensor in tinies.tensors_of(source).items():
        twin[name] = stored[name] = tensor
        if chosen(name):
            stored[name], scale, twin[name] = blocks(tensor)
            stored[f"{name}_scale_inv"] = scale
    config = edits.read_config(source)
    more = {"quantization_config": QUANTISATION}
    edits.write_config(folder / "fp8", config | more)
    save_file(stored, folder / "fp8/model.safetensors")
    edits.write_config(folder / "twin", config)
    save_file(twin, folder / "twin/model.safetensors")
    return folder / "fp8", folder / "twin"


def logits(folder: Path, build: Path) -> torch.Tensor:
    model = builds.load(compile_model(folder, build), folder)
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


NAMES = (
    "llama-gqa",
    "qwen2-tied",
    "qwen3-full",
    "glm-partial",
    "glm4_moe-air",  # each expert has codes and scales of its own
    "glm_moe_dsa-shared",
)


@pytest.mark.parametrize("name", NAMES)
def test_equals_its_twin(name: str, tiny: MakeTiny, tmp_path: Path) -> None:
    ours, theirs = pair(tiny(BY_NAME[name]).checkpoint, tmp_path)
    assert torch.equal(logits(ours, tmp_path / "a"), logits(theirs, tmp_path / "b"))


def test_what_the_list_gets_wrong_is_read_as_it_is_stored(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    """A module that the list forgets and the files hold as floats."""
    source = tiny(BY_NAME["llama-gqa"]).checkpoint

    def chosen(name: str) -> bool:
        return is_linear(name) and "layers.1." not in name and "o_proj" not in name

    ours, theirs = pair(source, tmp_path, chosen)
    assert torch.equal(logits(ours, tmp_path / "a"), logits(theirs, tmp_path / "b"))
    assert main(["check", str(tmp_path / "a"), "--weights", str(ours)]) == 0


def test_experts_may_be_stored_unlike_each_other(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    source = tiny(BY_NAME["glm4_moe-air"]).checkpoint

    def chosen(name: str) -> bool:
        return is_linear(name) and "experts.3." not in name

    ours, theirs = pair(source, tmp_path, chosen)
    assert torch.equal(logits(ours, tmp_path / "a"), logits(theirs, tmp_path / "b"))
    assert main(["check", str(tmp_path / "a"), "--weights", str(ours)]) == 0


def test_modules_left_out_are_floats(tiny: MakeTiny, tmp_path: Path) -> None:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    ours, theirs = pair(
        source, tmp_path, lambda name: is_linear(name) and "o_proj" not in name
    )
    config = edits.read_config(ours)
    left_out = [f"model.layers.{i}.self_attn.o_proj" for i in range(3)]
    config["quantization_config"]["modules_to_not_convert"] += left_out
    edits.write_config(ours, config)
    assert torch.equal(logits(ours, tmp_path / "a"), logits(theirs, tmp_path / "b"))
    text = (tmp_path / "a" / "weights.py").read_text()
    # q, k and v, gate and up, and down: o is none of them.
    assert text.count("dequant_blocks(") == 6


def test_control_a_wrong_block_shows(tiny: MakeTiny, tmp_path: Path) -> None:
    ours, theirs = pair(tiny(BY_NAME["llama-gqa"]).checkpoint, tmp_path)
    right = logits(theirs, tmp_path / "b")
    build = compile_model(ours, tmp_path / "a")
    old, new = "repeat_interleave(block[1], -1)", "repeat_interleave(block[0], -1)"
    wrong = edits.with_source(build, tmp_path / "w", "quantization.py", old, new)
    model = builds.load(wrong, ours)
    assert not torch.equal(model(input_ids=IDS).logits, right)


def test_pieces_of_a_large_matrix(
    tiny: MakeTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair(tiny(BY_NAME["llama-gqa"]).checkpoint, tmp_path)
    right = logits(theirs, tmp_path / "b")
    build = builds.import_build(compile_model(ours, tmp_path / "a"))
    monkeypatch.setattr(build.filling, "PIECE", 1 << 10)
    model = build.load(ours, dtype="float32")
    assert torch.equal(model(input_ids=IDS).logits, right)


def test_transformers_dequantises_alike() -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    from glmc.backends.runtime.quantization import dequantize_blocks

    weight = torch.randn(256, 384, generator=torch.Generator().manual_seed(4))
    codes = weight.to(torch.float8_e4m3fn)
    scale = torch.rand(2, 3, generator=torch.Generator().manual_seed(5))
    for dtype in (torch.float32, torch.bfloat16):
        theirs = Fp8Dequantize(None)._dequantize_one(codes, scale, dtype)
        ours = dequantize_blocks(codes, scale, dtype, (128, 128))
        assert torch.equal(ours, theirs.to(dtype))


def test_float8_files_under_a_float_config_are_refused(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    ours, _ = pair(tiny(BY_NAME["llama-gqa"]).checkpoint, tmp_path)
    config = edits.read_config(ours)
    del config["quantization_config"]
    edits.write_config(ours, config)
    with pytest.raises(
        GlmcError, match="is stored as F8_E4M3, and the config says flo"
    ):
        compile_model(ours, tmp_path / "build")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "hqq"}, "has the method 'hqq', supported are 'fp8'"),
        ({"fmt": "e5m2"}, "fmt is 'e5m2', supported is null or 'e4m3'"),
        ({"activation_scheme": "block"}, "activation_scheme is 'block'"),
        ({"scale_fmt": "int"}, "scale_fmt is 'int', supported is null or 'float'"),
        ({"weight_block_size": [128]}, "expected the two sizes"),
        ({"weight_block_size": [0, -1]}, "expected the two sizes"),
        ({"modules_to_not_convert": "lm_head"}, "expected a list"),
        ({"rotation": True}, "--ignore-key quantization_config.rotation"),
    ],
)
def test_other_formats_are_refused(
    change: Mapping[str, Any], message: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    config = edits.read_config(tiny(BY_NAME["llama-gqa"]).checkpoint)
    config["quantization_config"] = {**QUANTISATION, **change}
    edits.write_config(tmp_path, json.loads(json.dumps(config)))
    with pytest.raises(GlmcError) as error:
        compile_model(tmp_path, tmp_path / "build")
    assert message in str(error.value)
