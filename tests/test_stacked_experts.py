"""Experts that are stacked in some files, and in others have tensors of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glmc import compile_model
from support import builds, composites, parity, reference
from support.tiny import tensors_of
from support.variants import Tiny, Variant

VARIANT = Variant("qwen3_5_moe", "text")
EXPERTS = 8


@pytest.mark.parametrize("scenario", parity.SCENARIOS)
def test_separate(
    scenario: str, tiny: Callable[[Variant], Tiny], tmp_path: Path
) -> None:
    case = tiny(VARIANT)
    build = compile_model(case.checkpoint, tmp_path / "build", variant="separate")
    model = builds.load(build, case.checkpoint)
    expected = reference.read(case.reference)
    assert parity.SCENARIOS[scenario](model, expected) <= parity.TOLERANCE


def test_stacked(tiny: Callable[[Variant], Tiny], tmp_path: Path) -> None:
    case = tiny(VARIANT)
    published = tmp_path / "published"
    published.mkdir()
    config = (case.checkpoint / "config.json").read_bytes()
    (published / "config.json").write_bytes(config)
    save_file(stacked(tensors_of(case.checkpoint)), published / "model.safetensors")
    model = builds.load(compile_model(published, tmp_path / "build"), published)
    expected = reference.read(case.reference)
    assert parity.decode(model, expected) <= parity.TOLERANCE
    with pytest.raises(ValueError, match="gate_up_proj"):
        builds.load(tmp_path / "build", case.checkpoint)


@pytest.mark.parametrize("scenario", ["decode", "padded", "far"])
def test_a_composite_whose_text_part_says_which_it_is(
    scenario: str, tiny: Callable[[Variant], Tiny], tmp_path: Path
) -> None:
    case = tiny(Variant("glm46v", "experts", composites.GLM46V_EXPERTS))
    build = compile_model(case.checkpoint, tmp_path / "build", variant="stacked")
    model = builds.load(build, case.checkpoint)
    expected = reference.read(case.reference)
    assert parity.SCENARIOS[scenario](model, expected) <= parity.TOLERANCE


def stacked(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same with the matrices of all experts of a layer in two tensors."""
    found = {k: v for k, v in tensors.items() if ".mlp.experts." not in k}
    for first in (
        name for name in tensors if name.endswith(".experts.0.up_proj.weight")
    ):
        place = first.removesuffix("0.up_proj.weight")
        gates, ups, downs = (
            torch.stack([tensors[f"{place}{x}.{of}.weight"] for x in range(EXPERTS)])
            for of in ("gate_proj", "up_proj", "down_proj")
        )
        found[f"{place}gate_up_proj"] = torch.cat((gates, ups), 1)
        found[f"{place}down_proj"] = downs
    return found
