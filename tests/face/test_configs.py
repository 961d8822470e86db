"""The configs that glmc comes with, and what a wrong checkpoint is said to be."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from glmc.command.cli import main
from glmc.compile.accounting import wanted
from glmc.compile.driver import Options, compile_files
from glmc.frontends.spec.library import builtin_configs
from glmc.ir.lower import lower
from glmc.ir.text import parse_model, parse_program, print_model, print_program
from glmc.prove import catalogue
from glmc.prove.catalogue import Entry, entries, likeness
from support import GOLDEN
from support.stages import run

# As published: from the sizes of the files, or from the model's card.
PARAMETERS = {
    "bert": 109_482_240,
    "chatglm-6b": 6_173_286_400,
    "chatglm2-6b": 6_243_584_000,
    "chatglm3-6b": 6_243_584_000,
    "glm-4-9b-0414": 9_400_279_040,
    "glm-4-9b-chat": 9_399_951_360,
    "gpt2": 124_439_808,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "qwen3-0.6b": 596_049_920,
}


@cache
def built_in() -> dict[str, Entry]:
    """Every built-in config, compiled once."""
    return {entry.name: entry for entry in entries()}


@cache
def needs(name: str) -> Mapping[str, Any]:
    """The tensors that a built-in config needs."""
    return wanted(built_in()[name].program)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the catalogue take what was compiled already."""
    names = {id(entry.program): name for name, entry in built_in().items()}
    monkeypatch.setattr(catalogue, "entries", lambda: built_in().values())
    monkeypatch.setattr(catalogue, "wanted", lambda of: needs(names[id(of)]))


@dataclass(frozen=True)
class Info:
    shape: tuple[int, ...] | None
    dtype: str | None = "F16"


@pytest.mark.parametrize("name", builtin_configs())
def test_every_config_compiles(name: str) -> None:
    began = time.process_time()
    compiled = compile_files(name, Options(strict=False))
    assert time.process_time() - began < 1.0
    assert compiled.loaded.model.layers == built_in()[name].model.layers
    manifest = json.loads(compiled.files["manifest.json"])
    fates = manifest["config_keys"]
    ignored = {key for key, fate in fates.items() if fate["status"] == "ignored"}
    assert ignored <= {"_name_or_path"}, "only keys that matter are written down"


@pytest.mark.parametrize("name", builtin_configs())
def test_every_stage_parses_back_to_itself(name: str) -> None:
    model = built_in()[name].model
    assert parse_model(print_model(model)) == model
    for stage in run(lower(model)):
        text = print_program(stage.program)
        assert parse_program(text) == stage.program, stage.name


def test_none_is_left_out() -> None:
    assert set(builtin_configs()) == set(built_in())


def test_parameters_are_those_of_the_published_models() -> None:
    facts = {name: entry.facts["parameters"] for name, entry in built_in().items()}
    assert {name: facts[name] for name in PARAMETERS} == PARAMETERS


def test_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines}) == 1
    listed = [line.split()[:4] for line in lines]
    assert ["chatglm3-6b", "chatglm", "28", "4,096"] in listed
    assert main(["configs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == [entry.facts for entry in built_in().values()]


def test_a_name_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compile", "chatglm3-6b", "-o", "build"]) == 0
    assert main(["check", "gpt2"]) == 2
    assert "gpt2 has no weights of its own" in capsys.readouterr().err
    assert main(["compile", "chatglm3-6bb", "-o", "other"]) == 2
    told = capsys.readouterr().err
    assert "Did you mean the built-in config chatglm3-6b?" in told


def test_a_folder_comes_before_a_config_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert main(["compile", "gpt2", "-o", "build"]) == 2
    assert "hides the built-in config of that name" in capsys.readouterr().err
    config = (GOLDEN / "chatglm3" / "config.json").read_text()
    (tmp_path / "gpt2" / "config.json").write_text(config)
    assert main(["compile", "gpt2", "-o", "build"]) == 0
    captured = capsys.readouterr()
    assert "gpt2 is taken as the folder here" in captured.err
    assert "chatglm, 3 layers" in captured.out


@pytest.mark.usefixtures("once")
@pytest.mark.parametrize("name", builtin_configs())
def test_a_checkpoint_is_recognised(name: str) -> None:
    headers = {n: Info(need.shape) for n, need in needs(name).items()}
    told = likeness(headers)
    assert told
    assert told.startswith("Its tensors are those of")
    assert name in told


@pytest.mark.usefixtures("once")
def test_what_is_recognised_by_less() -> None:
    need = needs("glm-4-9b-chat")
    shapes = {n: one.shape or () for n, one in need.items()}
    tiny = {n: Info((*s[:1], *(8 for _ in s[1:]))) for n, s in shapes.items()}
    assert likeness(tiny) == (
        "Its names and its vocabulary are those of glm-4-9b-chat."
    )
    smaller = {n: Info((8,)) for n in need if ".layers.0." in n or ".layers" not in n}
    told = likeness(smaller)
    assert told
    assert told.startswith("Its tensors are named as those of chatglm2-6b, chatglm3-6b")
    assert likeness({"something.else": Info((8,))}) is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("chatglm3-6b", "glm-4-9b-chat"),
        ("chatglm2-6b", "chatglm-6b"),
        ("chatglm-6b", "chatglm2-6b"),
    ],
)
def test_a_mix_of_generations_is_named(
    ours: str, theirs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config with the weights of another generation, by an index alone."""
    names = needs(theirs)
    index = {"weight_map": dict.fromkeys(names, "model-1.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert main(["check", ours, "--weights", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "Its tensors are those of" in told
    assert theirs in told
    assert ours not in told.partition("Its tensors")[2]
    assert main(["check", theirs, "--weights", str(tmp_path)]) == 0
