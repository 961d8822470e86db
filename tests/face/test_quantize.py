"""``glmc quantize``: the format, what it copies, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from glmc import compile_model
from glmc.command.cli import main
from glmc.use.quantizing import quantize, quantize_rows
from support import GOLDEN, builds, edits, quantised
from support.cli import glmc, refused

SOURCE = GOLDEN / "chatglm3"
IDS = torch.tensor([[5, 17, 3, 42, 11]])


def written(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        found |= load_file(shard)
    return found


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_within_half_a_step(
    bits: int, embeddings: bool, tmp_path: Path
) -> None:
    quantize(str(SOURCE), tmp_path / "out", bits, embeddings=embeddings)
    floats, ours = quantised.tensors_of(SOURCE), written(tmp_path / "out")
    scales = {name for name in ours if name.endswith("_scale")}
    assert len(scales) == 12 + 2 * embeddings
    assert ours.keys() == floats.keys() | scales
    for name, weight in floats.items():
        if f"{name}_scale" not in scales:
            assert torch.equal(ours[name], weight), name
            continue
        assert ours[name].dtype == torch.int8
        assert ours[name].shape == (weight.shape[0], weight.shape[1] * bits // 8)
        scale = ours[f"{name}_scale"]
        most = 2 ** (bits - 1) - 1
        torch.testing.assert_close(scale, weight.abs().amax(1) / most)
        values = quantised.dequantise(
            ours[name].numpy(), scale.numpy(), bits, np.float32
        )
        off = (torch.from_numpy(values) - weight).abs() / scale[:, None]
        assert off.max() <= 0.5 + 1e-5, name


@pytest.mark.parametrize("bits", [4, 8])
def test_the_road_from_floats_to_tokens(bits: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize(str(SOURCE), out, bits)
    model = builds.load(compile_model(out, tmp_path / "build"), out)
    float_twin = quantised.write(
        tmp_path / "twin", SOURCE, quantised.twin(written(out), bits), {}
    )
    twin = builds.load(compile_model(float_twin, tmp_path / "f"), float_twin)
    assert torch.equal(model(input_ids=IDS).logits, twin(input_ids=IDS).logits)


def test_rows_as_the_format_says() -> None:
    weight = torch.tensor([[7.0, -7.0, 3.4, -3.6], [0.0, 0.0, 0.0, 0.0]])
    codes, scale = quantize_rows(weight, 4, "w")
    assert codes.view(torch.uint8).tolist() == [[0x79, 0x3C], [0, 0]]
    assert scale.tolist() == [1.0, 0.0]
    codes, scale = quantize_rows(weight, 8, "w")
    assert codes.tolist() == [[127, -127, 62, -65], [0, 0, 0, 0]]
    assert scale.tolist() == pytest.approx([7 / 127, 0.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", [4, 8])
def test_scales_have_the_dtype_of_the_weights(bits: int, dtype: torch.dtype) -> None:
    weight = torch.randn(9, 32, generator=torch.Generator().manual_seed(3)).to(dtype)
    codes, scale = quantize_rows(weight, bits, "w")
    assert scale.dtype == dtype
    values = quantised.unpack(codes.numpy()) if bits == 4 else codes.numpy()
    near = torch.from_numpy(values).float() * scale.float()[:, None]
    assert ((near - weight.float()).abs() <= 0.51 * scale.float()[:, None]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(Exception, match=r"layers\.0\.w holds weights that are not"):
        quantize_rows(torch.tensor([[1.0, value]]), 8, "layers.0.w")


def folder_with_company(folder: Path) -> Path:
    """The golden model with what a repository holds beside it."""
    shutil.copytree(SOURCE, folder)
    for name in ("tokenizer.model", "tokenizer_config.json", "MODEL_LICENSE"):
        (folder / name).write_text(name)
    for name in ("modeling_chatglm.py", "quantization.py", "notes.exe"):
        (folder / name).write_text("raise SystemExit")
    return folder


def test_what_lies_beside_the_weights(tmp_path: Path) -> None:
    source = folder_with_company(tmp_path / "source")
    run = glmc("quantize", source, "-o", tmp_path / "out", "--bits", "8", "--json")
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert (facts["quantised"], facts["bits"]) == (12, 8)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    shards = {name for name in names if name.endswith(".safetensors")}
    assert len(shards) == 5
    assert names - shards == {
        "MODEL_LICENSE",
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    config, before = (edits.read_config(f) for f in (tmp_path / "out", source))
    assert config == {**before, "quantization_bit": 8}
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    size = sum(tensor.nbytes for tensor in written(tmp_path / "out").values())
    assert index["metadata"]["total_size"] == size == facts["bytes_written"]
    assert set(index["weight_map"].values()) == shards


def test_memory_holds_one_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    held: list[set[str]] = []

    def spy(tensors: dict[str, Any], *args: Any, **options: Any) -> None:
        held.append(set(tensors))
        save_file(tensors, *args, **options)

    monkeypatch.setattr(safetensors.torch, "save_file", spy)
    quantize(str(SOURCE), tmp_path / "out", 8)
    assert len(held) == 5
    assert sum(map(len, held)) == len(set().union(*held))


def test_out_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(SOURCE, source)
    shard = sorted(source.glob("*.bin"))[-2]  # others are written before it
    tensors = torch.load(shard, weights_only=True)
    name = next(n for n in tensors if quantised.LINEARS.search(n))
    tensors[name][0, 0] = torch.inf
    torch.save(tensors, shard)
    message = refused(glmc("quantize", source, "-o", tmp_path / "out", "--bits", "4"))
    assert "not finite" in message
    assert name in message
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["quantize", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "exists" in refusal(capsys, SOURCE, "-o", tmp_path, "--bits", 4)
    quantize(str(SOURCE), out, 4)
    more = ("-o", tmp_path / "again", "--bits", 8)
    assert "quantised already" in refusal(capsys, out, *more)
    wrong = edits.with_config(SOURCE, tmp_path / "wrong", {"ffn_hidden_size": 96})
    assert "no checkpoint of its own config" in refusal(capsys, wrong, *more)
    gpt2 = {"model_type": "gpt2", "vocab_size": 8, "n_embd": 8, "n_head": 2}
    folder = edits.write_config(
        tmp_path / "gpt2", gpt2 | {"n_layer": 1, "n_positions": 8}
    )
    assert "reads no quantised checkpoints" in refusal(capsys, folder, *more)
    (tmp_path / "linked").mkdir()
    shutil.copytree(SOURCE, tmp_path / "linked", dirs_exist_ok=True)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "linked" / "tokenizer.model").symlink_to(tmp_path / "secret")
    assert "leaves the folder" in refusal(capsys, tmp_path / "linked", *more)
    assert not (tmp_path / "again").exists()


def test_a_tied_head_is_written_once(tmp_path: Path) -> None:
    """ChatGLM-6B stores it twice; with quantised embeddings both would be codes."""
    out = tmp_path / "out"
    quantize(str(GOLDEN / "chatglm"), out, 4, embeddings=True)
    ours = written(out)
    assert "transformer.word_embeddings.weight_scale" in ours
    assert not [name for name in ours if name.startswith("lm_head")]
    build = compile_model(out, tmp_path / "build")
    assert main(["check", str(build), "--weights", str(out)]) == 0
    quantize(str(GOLDEN / "chatglm"), tmp_path / "layers", 4)
    assert "lm_head.weight" in written(tmp_path / "layers")
