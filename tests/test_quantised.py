"""Quantised checkpoints are their dequantised float twins, exactly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from glmc import compile_model
from glmc.command.cli import main
from glmc.look.builds import Build
from glmc.prove.comparing import answer, carried, scenarios
from glmc.prove.references import write_golden
from support import EXAMPLES, GOLDEN, builds, edits, quantised

Compile = Callable[[Path], Path]
NAMES = ("chatglm", "chatglm2", "chatglm3", "codegeex2")
# The last two are [gMASK] and <sop> of the v1 golden model.
IDS = torch.tensor([[5, 17, 3, 42, 11, 137, 140]])


def logits(model: Any) -> torch.Tensor:
    """Of a prompt in one call, and then of two tokens one at a time."""
    out = model(input_ids=IDS)
    found = [out.logits]
    for token in (7, 19):
        out = model(
            input_ids=torch.tensor([[token]]), past_key_values=out.past_key_values
        )
        found.append(out.logits)
    return torch.cat(found, 1)


def both(
    name: str,
    bits: int,
    folder: Path,
    *,
    as_bin: bool = False,
    embeddings: bool = False,
) -> tuple[Path, Path]:
    """(quantised folder, its float twin) of a golden checkpoint."""
    source = GOLDEN / name
    stored = quantised.quantised(
        quantised.tensors_of(source), bits, embeddings=embeddings
    )
    changes = {"quantization_bit": bits}
    if embeddings:
        changes["quantization_embeddings"] = True
    ours = quantised.write(folder / "q", source, stored, changes, as_bin=as_bin)
    float_twin = quantised.twin(stored, bits)
    theirs = quantised.write(folder / "twin", source, float_twin, {})
    return ours, theirs


@pytest.mark.parametrize("as_bin", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_equals_its_twin(name: str, bits: int, as_bin: bool, tmp_path: Path) -> None:
    ours, theirs = both(name, bits, tmp_path, as_bin=as_bin)
    model = builds.load(compile_model(ours, tmp_path / "build"), ours)
    assert model.layers[0].qkv.dtype == torch.int8
    twin = builds.load(compile_model(theirs, tmp_path / "float"), theirs)
    got = logits(model)
    assert torch.equal(got, logits(twin))
    # And it is the model it was made of, within what the codes can tell apart: the
    # golden models have large random weights, which magnify a step of 1/7 or 1/127.
    golden = builds.load(compile_model(GOLDEN / name, tmp_path / "g"), GOLDEN / name)
    error = (got - logits(golden)).norm() / logits(golden).norm()
    assert error < {8: 0.05, 4: 0.8}[bits]


@pytest.mark.parametrize("name", ["chatglm", "chatglm3"])
@pytest.mark.parametrize("bits", [4, 8])
def test_embeddings_too(name: str, bits: int, tmp_path: Path) -> None:
    ours, theirs = both(name, bits, tmp_path, embeddings=True)
    model = builds.load(compile_model(ours, tmp_path / "build"), ours)
    twin = builds.load(compile_model(theirs, tmp_path / "float"), theirs)
    assert model.word_embeddings.dtype == torch.int8
    assert model.dtype == torch.float32
    assert torch.equal(logits(model), logits(twin))


@pytest.mark.parametrize("bits", [4, 8])
def test_made_at_load_time_it_is_the_same(bits: int, tmp_path: Path) -> None:
    ours, _ = both("chatglm2", bits, tmp_path)
    kept = builds.load(compile_model(ours, tmp_path / "a"), ours)
    build = compile_model(ours, tmp_path / "b", disable=("keep-quantized",))
    made = builds.load(build, ours)
    assert made.layers[0].qkv.dtype == torch.float32
    assert torch.equal(logits(kept), logits(made))


@pytest.mark.parametrize("bits", [4, 8])
def test_half_precision_rounds_each_weight_once(bits: int, tmp_path: Path) -> None:
    """fp16(code) · fp16(scale), rounded to fp16: what the published kernels compute."""
    ours, _ = both("chatglm2", bits, tmp_path)
    stored = load_file(ours / "model.safetensors")
    twin = quantised.write(
        tmp_path / "half", ours, quantised.twin(stored, bits, np.float16), {}
    )
    build = compile_model(ours, tmp_path / "b", disable=("keep-quantized",))
    made = builds.import_build(build).load(ours, dtype="float16")
    config = edits.read_config(ours)
    del config["quantization_bit"]
    edits.write_config(twin, config)
    floats = builds.import_build(compile_model(twin, tmp_path / "f"))
    expected = dict(floats.load(twin, dtype="float16").named_parameters())
    for name, weight in made.named_parameters():
        assert torch.equal(weight, expected[name]), name


def test_control_the_other_nibble_first_shows(tmp_path: Path) -> None:
    ours, theirs = both("chatglm2", 4, tmp_path)
    build = compile_model(ours, tmp_path / "build")
    old = "[codes >> 4, (codes << 4) >> 4]"
    new = "[(codes << 4) >> 4, codes >> 4]"
    wrong = edits.with_source(build, tmp_path / "wrong", "quantization.py", old, new)
    twin = builds.load(compile_model(theirs, tmp_path / "float"), theirs)
    assert not torch.equal(logits(builds.load(wrong, ours)), logits(twin))


def test_control_a_shifted_scale_shows(tmp_path: Path) -> None:
    ours, theirs = both("chatglm2", 8, tmp_path)
    build = compile_model(ours, tmp_path / "build")
    old, new = "scale.to(dtype)[..., None]", "scale.to(dtype).roll(1)[..., None]"
    wrong = edits.with_source(build, tmp_path / "wrong", "quantization.py", old, new)
    twin = builds.load(compile_model(theirs, tmp_path / "float"), theirs)
    assert not torch.equal(logits(builds.load(wrong, ours)), logits(twin))


@pytest.mark.parametrize("bits", [4, 8])
def test_emitted_code_is_clean(bits: int, tmp_path: Path) -> None:
    """Of a model whose embeddings are quantised too, and with the longest names."""
    sets = (f"quantization_bit={bits}", "quantization_embeddings=true")
    config = EXAMPLES / "configs/chatglm3-6b.json"
    compile_model(config, tmp_path / "build", sets=sets)
    for command in (
        ("format", "--check", "--isolated"),
        ("check", "--isolated", "--select=E,F,W,I,B,UP,SIM,C4"),
    ):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "build"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr


def test_verify_and_bisect_hold_codes_against_floats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference is the float twin, whose weights numpy made of the codes."""
    ours, theirs = both("chatglm3", 4, tmp_path)
    build = compile_model(ours, tmp_path / "build")
    twin = builds.load(compile_model(theirs, tmp_path / "float"), theirs)
    numbers = tmp_path / "twin.safetensors"
    given = scenarios(Build(build).model.vocab, 9, 3)
    write_golden(
        numbers, [(s, answer(twin, enumerate(twin.layers), carried, s)) for s in given]
    )
    against = ["--weights", str(ours), "--against", str(numbers), "--device", "cpu"]
    assert main(["verify", str(build), *against]) == 0
    assert main(["bisect", str(build), *against]) == 0
    wrong = edits.with_source(
        build,
        tmp_path / "wrong",
        "reference.py",
        "F.linear(x, w, bias)",
        "F.linear(x, w * 1.1, bias)",
    )
    assert main(["verify", str(wrong), *against]) == 1
    capsys.readouterr()
    assert main(["bisect", str(wrong), *against, "--json"]) == 1
    culprit = json.loads(capsys.readouterr().out)["culprit"]
    assert (culprit["stage"], culprit["place"]) == ("reference.py", 0)
    assert "rms_norm_linear(%x" in culprit["op"]
