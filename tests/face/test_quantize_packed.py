"""``glmc quantize`` in compressed-tensors' format, and codes made while loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import (
    pack_to_int32,
    unpack_from_int32,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from glmc import compile_model
from glmc.backends.runtime import quantization
from glmc.command.cli import main
from glmc.ir.errors import GlmcError
from glmc.use import packing, quantizing
from glmc.use.quantizing import quantize
from support import GOLDEN, builds, edits
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
IDS = torch.tensor([[5, 17, 3, 42, 11, 8, 29]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def theirs(folder: Path) -> torch.Tensor:
    """Return what transformers answers, which hands codes to compressed-tensors."""
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


@pytest.fixture
def source(tiny: MakeTiny) -> Path:
    return tiny(BY_NAME["llama-gqa"]).checkpoint


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64])
def test_transformers_and_a_build_read_it_alike(
    bits: int, group: int, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    facts = quantize(str(source), out, bits, group=group)
    assert facts["quantised"] == {32: 21, 64: 18}[group]  # down has rows of 96
    build = compile_model(out, tmp_path / "build", verify_passes=True)
    assert main(["check", str(build), "--weights", str(out)]) == 0
    model = builds.load(build, out)
    assert model.layers[0].qkv.dtype == torch.int8
    right = theirs(out)
    assert (logits(model) - right).abs().max() < 1e-4
    # And it is the model that it was made of, as far as so many bits can tell.
    error = (right - theirs(source)).norm() / theirs(source).norm()
    assert error < {8: 0.05, 4: 0.6}[bits]


@pytest.mark.parametrize("bits", [4, 8])
def test_words_are_those_of_compressed_tensors(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    half = 1 << bits - 1
    codes = torch.randint(-half, half, (9, 64), generator=generator).to(torch.int8)
    words = packing.in_words(codes, bits)
    assert torch.equal(words, pack_to_int32(codes, bits))
    assert torch.equal(unpack_from_int32(words, bits, torch.Size([9, 64])), codes)
    ours = quantization.code_rows(words, bits, "packed", slice(None))
    assert torch.equal(ours, codes)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_within_half_a_step(bits: int) -> None:
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(1))
    weight[3, :32] = 0.0
    codes, scale = quantization.round_groups(weight, bits, 32)
    made = quantization.Groups(codes, scale, None, None).weights(32, torch.float32)
    step = scale.repeat_interleave(32, 1)
    assert ((made - weight).abs() <= 0.5001 * step).all()
    assert scale[3, 0] == 0
    assert not codes[3, :32].any()


@pytest.mark.parametrize("bits", [4, 8])
def test_made_while_loading_they_are_the_same(
    bits: int, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(str(source), out, bits, group=32)
    written = compile_model(out, tmp_path / "a")
    right = logits(builds.load(written, out))
    made = compile_model(
        source, tmp_path / "b", codes=bits, group=32, verify_passes=True
    )
    assert main(["check", str(made), "--weights", str(source)]) == 0
    model = builds.load(made, source)
    assert model.layers[0].qkv.dtype == torch.int8
    assert torch.equal(logits(model), right)
    # A build of the written codes makes them of the floats, too, when it is told to.
    again = builds.load(written, source, weights=f"int{bits}")
    assert torch.equal(logits(again), right)
    with pytest.raises(ValueError, match=r'load\(…, weights="int4"\)'):
        builds.load(written, source)
    # As floats at load time they are the same weights.
    floats = compile_model(out, tmp_path / "c", disable=("keep-quantized",))
    assert torch.equal(logits(builds.load(floats, out)), right)


def test_several_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    quantize(str(source), whole, 4, group=32)
    monkeypatch.setattr(quantizing, "_FILE", 1 << 14)
    monkeypatch.setattr(packing, "_ROWS", 7)
    quantize(str(source), pieces, 4, group=32)
    index = json.loads((pieces / "model.safetensors.index.json").read_text())
    found: dict[str, torch.Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        held = load_file(pieces / file)
        assert {index["weight_map"][name] for name in held} == {file}
        found |= held
    expected = load_file(whole / "model.safetensors")
    assert len(set(index["weight_map"].values())) > 2
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_planted_mistake_shows(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words with the high nibble first are another model to transformers and to us."""
    right = tmp_path / "right"
    quantize(str(source), right, 4, group=32)
    plain = packing.in_words

    def swapped(codes: torch.Tensor, bits: int) -> torch.Tensor:
        return plain(codes.reshape(len(codes), -1, 2).flip(-1).flatten(1), bits)

    monkeypatch.setattr(packing, "in_words", swapped)
    wrong = tmp_path / "wrong"
    quantize(str(source), wrong, 4, group=32)
    assert (theirs(wrong) - theirs(right)).abs().max() > 0.1
    ours = builds.load(compile_model(wrong, tmp_path / "b"), wrong)
    assert (logits(ours) - theirs(right)).abs().max() > 0.1


def test_experts_and_routers(tiny: MakeTiny, tmp_path: Path) -> None:
    """Routers stay floats, and are named among what was left out."""
    source = tiny(BY_NAME["glm4_moe-air"]).checkpoint
    quantize(str(source), tmp_path / "out", 8, group=32)
    config = edits.read_config(tmp_path / "out")["quantization_config"]
    assert "model.layers.1.mlp.gate" in config["ignore"]
    build = compile_model(tmp_path / "out", tmp_path / "b")
    assert main(["check", str(build), "--weights", str(tmp_path / "out")]) == 0


def refusal(*arguments: object) -> str:
    with pytest.raises(GlmcError) as error:
        quantize(*arguments[:3], **(arguments[3] if len(arguments) > 3 else {}))  # type: ignore[arg-type]
    return str(error.value)


def test_what_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = refusal(str(GOLDEN / "chatglm3"), out, 4, {"group": 32})
    assert "ChatGLM's own format" in told
    assert "leave --embeddings out" in refusal(
        str(source), out, 4, {"embeddings": True}
    )
    assert not out.exists()
    quantize(str(source), out, 4, group=32)
    assert "quantised already" in refusal(str(out), tmp_path / "again", 4)


def test_codes_that_a_build_does_not_read(source: Path, tmp_path: Path) -> None:
    floats = compile_model(source, tmp_path / "floats")
    with pytest.raises(ValueError, match="multiplies by floats; compile it with"):
        builds.load(floats, source, weights="int4")
    coded = compile_model(source, tmp_path / "coded", codes=8, group=32)
    with pytest.raises(ValueError, match="reads codes of 8 bits, not 4"):
        builds.load(coded, source, weights="int4")
    with pytest.raises(ValueError, match='neither "int8" nor "int4"'):
        builds.load(coded, source, weights="fp4")
    small = edits.read_config(source) | {"hidden_size": 80, "intermediate_size": 80}
    edits.write_config(tmp_path / "small", small | {"head_dim": 20})
    with pytest.raises(GlmcError, match="rows of whole groups of 64"):
        compile_model(tmp_path / "small", tmp_path / "b", codes=4, group=64)


def test_the_command_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, build = tmp_path / "out", tmp_path / "build"
    how = ["-o", str(out), "--bits", "4", "--group", "32"]
    assert main(["quantize", str(source), *how]) == 0
    assert "21 matrices in 4 bits" in capsys.readouterr().out
    how = ["-o", str(build), "--codes", "int4", "--group", "32"]
    assert main(["compile", str(source), *how]) == 0
    assert "bits=4" in (build / "model.py").read_text()
