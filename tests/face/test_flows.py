"""``glmc inspect --upstream`` and ``--downstream``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmc.command.cli import main
from glmc.look.builds import Build
from support import GOLDEN


@pytest.fixture(scope="module")
def build(compiled: Callable[[Path], Path]) -> Path:
    return compiled(GOLDEN / "chatglm3")


def flow(
    capsys: pytest.CaptureFixture[str], build: Path, way: str, value: str
) -> list[dict[str, Any]]:
    """Return what is found, graph by graph."""
    assert main(["inspect", str(build), way, value, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["direction"] == way.removeprefix("--")
    found: list[dict[str, Any]] = facts["graphs"]
    return found


def makers(graphs: list[dict[str, Any]]) -> set[str]:
    return {op.partition("(")[0].split()[-1] for found in graphs for op in found["ops"]}


def test_upstream_is_all_that_a_value_is_made_of(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = flow(capsys, build, "--upstream", "%ctx")
    assert found["title"] == "layer x 3"
    assert makers([found]) == {"rms_norm_linear", "qkv_attention"}
    assert set(found["inputs"]) == {"x", "cos", "sin", "kv"}
    assert set(found["params"]) == {"input_layernorm", "qkv", "qkv_bias"}
    assert found["returns"] == {}


def test_downstream_is_all_that_is_made_of_it(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = flow(capsys, build, "--downstream", "@dense")
    assert makers([found]) == {"linear_add", "rms_norm_linear"}
    assert list(found["returns"]) == ["out"]
    (nothing,) = flow(capsys, build, "--downstream", "qkv_bias")
    assert makers([nothing]) > {"qkv_attention"}


def test_each_is_the_other_turned_around(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value's line is downstream of another's iff that is upstream of it."""
    layer = Build(build).program.blocks[0]
    for op in layer.ops:
        (up,) = flow(capsys, build, "--upstream", f"%{op.outs[0]}")[:1]
        for source in layer.ops:
            found = flow(capsys, build, "--downstream", f"%{source.outs[0]}")
            below = {line for one in found for line in one["ops"]}
            above = any(line.startswith(f"%{source.outs[0]}:") for line in up["ops"])
            made = any(line.startswith(f"%{op.outs[0]}:") for line in below)
            assert above == (made or op is source), (op.outs, source.outs)


def test_a_name_of_several_graphs_is_told_for_each(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = flow(capsys, build, "--downstream", "x")
    assert [one["graph"] for one in found] == ["stem", "layer", "head"]
    assert main(["inspect", str(build), "--downstream", "logits"]) == 0
    text = capsys.readouterr().out
    assert "head: what %logits goes to\n  return %logits: " in text


def test_a_value_that_is_none_is_told_with_those_near(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(build), "--upstream", "@qkvv"]) == 2
    told = capsys.readouterr().err
    assert "no value or parameter '@qkvv'; did you mean" in told
    assert "@qkv" in told
    assert main(["inspect", str(build), "--upstream", "nothing-like-it"]) == 2
    assert "did you mean" not in capsys.readouterr().err
