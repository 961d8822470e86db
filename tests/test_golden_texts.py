"""Builds equal the answers of published code that was read as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import safe_open

from glmc import compile_model
from support import builds, reference, told
from support.measured import Record, record
from support.parity import SCENARIOS, TOLERANCE
from support.ranges import first

Compile = Callable[[Path], Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("told")
    return lru_cache(lambda name: told.checkpoint(name, root / name))


@dataclass(frozen=True)
class Narrow:
    """A model of whose logits only those of the first words are looked at."""

    model: Any
    width: int

    def __call__(self, **given: Any) -> Any:
        out = self.model(**given)
        logits = out.logits[..., : self.width]
        return SimpleNamespace(logits=logits, past_key_values=out.past_key_values)


@lru_cache(maxsize=1)
def loaded(build: Path, weights: Path) -> Any:
    return builds.load(build, weights)


@pytest.mark.parametrize("scenario", ["prompt", "decode", "padded", "padded_by_mask"])
@pytest.mark.parametrize("name", told.NAMES)
def test_logits(
    name: str,
    scenario: str,
    checkpoint: Callable[[str], Path],
    compiled: Compile,
    record_property: Record,
) -> None:
    weights = checkpoint(name)
    build = compiled(weights)
    expected = reference.read(told.FOLDER / name / "answers.safetensors")
    model = Narrow(loaded(build, weights), expected["prompt"].shape[-1])
    worst = SCENARIOS[scenario](model, expected)
    record(record_property, build, "text", scenario, worst)
    assert worst <= TOLERANCE


@pytest.mark.parametrize("name", told.NAMES)
def test_where_the_text_was_published(name: str) -> None:
    """The file that was read is named, and can be told from another version of it."""
    with safe_open(told.FOLDER / name / "answers.safetensors", "pt") as file:
        about = file.metadata()
    assert about["origin"].count("/") == 1
    assert about["file"].startswith("modeling_")
    assert len(about["sha256"]) == 64


# Controls: each of these mistakes must show, or the tests above prove little.
MISTAKES = (
    ("baichuan-7b", "baichuan", "head: {normalised: true}", "prompt"),
    ("baichuan-13b", "baichuan", "ops: {attn: {alibi: {when: false}}}", "prompt"),
    ("baichuan2-13b", "baichuan", "head: {normalised: false}", "decode"),
    ("bailing_moe", "bailing_moe", "ops: {moe: {score: sigmoid}}", "prompt"),
    ("deepseek", "deepseek", "ops: {moe: {score: sigmoid}}", "decode"),
    ("exaone", "exaone", "ops: {attn: {scale: 0.3}}", "padded"),
    ("grok-1", "grok-1", "ops: {moe: {renormalise: true}}", "prompt"),
    ("grok-1", "grok-1", "ops: {moe: {act: silu}}", "decode"),
    ("internlm", "internlm", "ops: {attn: {rope: {style: interleaved}}}", "decode"),
    ("minicpm", "minicpm", "embed: {scale: '=c.scale_emb + 1'}", "prompt"),
    ("qwen", "qwen", "ops: {attn: {scale: 0.3}}", "prompt"),
)


@pytest.mark.parametrize(("name", "parent", "mistake", "scenario"), first(6, MISTAKES))
def test_control_a_wrong_spec_shows(
    name: str,
    parent: str,
    mistake: str,
    scenario: str,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    spec = tmp_path / "wrong.yaml"
    spec.write_text(f"extends: {parent}\n{mistake}\n")
    weights = checkpoint(name)
    build = compile_model(weights, tmp_path / "build", spec=spec)
    expected = reference.read(told.FOLDER / name / "answers.safetensors")
    model = Narrow(builds.load(build, weights), expected["prompt"].shape[-1])
    assert SCENARIOS[scenario](model, expected) > 10 * TOLERANCE
