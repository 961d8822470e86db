"""``glmc verify`` and ``glmc bisect`` on quantised checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from glmc import compile_model
from glmc.command.cli import main
from support import edits, hub_formats
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]


@dataclass
class Case:
    """A quantised checkpoint, its build, and what transformers said to its twin."""

    weights: Path
    build: Path
    numbers: Path

    def run(self, command: str, build: Path | None = None) -> int:
        parts = [command, build or self.build, "--weights", self.weights]
        parts += ["--against", self.numbers, "--device", "cpu", "--json"]
        return main([str(part) for part in parts])


@pytest.fixture(params=["gptq", "packed4-zeros", "int8", "fp8-matrix"])
def case(request: Any, tiny: MakeTiny, tmp_path: Path) -> Case:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    form = hub_formats.FORMATS[request.param]
    weights, twin = hub_formats.pair(source, tmp_path, form)
    numbers = tmp_path / "numbers.safetensors"
    floats = compile_model(twin, tmp_path / "floats")
    parts = ["verify", floats, "--weights", twin, "--save", numbers, "--device", "cpu"]
    assert main([str(part) for part in parts]) == 0
    return Case(weights, compile_model(weights, tmp_path / "build"), numbers)


def test_verify(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert case.run("verify") == 0
    facts = json.loads(capsys.readouterr().out)
    assert 0 < facts["worst"]["difference"] < 1e-5
    assert "layer 2" in facts["differences"]["single decode"]
    stored = case.weights / "model.safetensors"
    tensors = load_file(stored)
    scales = [n for n in tensors if ".1.mlp.up_proj" in n and "scale" in n]
    for name in scales:
        tensors[name] *= 1.5
    save_file(tensors, stored)
    assert case.run("verify") == 1
    rows = json.loads(capsys.readouterr().out)["differences"]["single prompt"]
    assert rows["layer 0"] <= 1e-4 < rows["layer 1"]


def test_bisect(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert case.run("bisect") == 0
    if "zeros=" not in (case.build / "model.py").read_text():
        return  # nothing of its own to go wrong
    capsys.readouterr()
    old, new = "x.dtype, bits, zeros, ", "x.dtype, bits, None, "
    wrong = edits.with_source(case.build, tmp_path / "op", "reference.py", old, new)
    assert case.run("bisect", wrong) == 1
    culprit = json.loads(capsys.readouterr().out)["culprit"]
    assert (culprit["stage"], culprit["place"]) == ("reference.py", 0)
    assert "zeros=" in culprit["op"]
    wrong = tmp_path / "pass"
    shutil.copytree(case.build, wrong)
    (dump,) = (wrong / "ir").glob("*-keep-quantized.glmc")
    text = dump.read_text()
    assert ", zeros=@gate_up_zeros" in text
    # What no op reads must not be declared either.
    lines = text.replace(", zeros=@gate_up_zeros", "").splitlines()
    kept = [line for line in lines if not line.startswith("  @gate_up_zeros:")]
    dump.write_text("\n".join(kept) + "\n")
    assert case.run("bisect", wrong) == 1
    culprit = json.loads(capsys.readouterr().out)["culprit"]
    assert (culprit["stage"], culprit["place"]) == ("keep-quantized", 0)
