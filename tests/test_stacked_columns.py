"""Qwen3-VL-MoE: stacked experts as published, and as transformers 5 saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from glmc import compile_model
from support import builds, parity, reference
from support.tiny import tensors_of
from support.variants import Tiny, Variant

VARIANT = Variant("qwen3_vl_moe", "text")


@pytest.mark.parametrize("scenario", parity.SCENARIOS)
def test_rows(scenario: str, tiny: Callable[[Variant], Tiny], tmp_path: Path) -> None:
    case = tiny(VARIANT)
    build = compile_model(case.checkpoint, tmp_path / "build", variant="rows")
    model = builds.load(build, case.checkpoint)
    expected = reference.read(case.reference)
    assert parity.SCENARIOS[scenario](model, expected) <= parity.TOLERANCE


def test_columns(tiny: Callable[[Variant], Tiny], tmp_path: Path) -> None:
    case = tiny(VARIANT)
    published = tmp_path / "published"
    published.mkdir()
    config = (case.checkpoint / "config.json").read_bytes()
    (published / "config.json").write_bytes(config)
    tensors = {
        name: tensor.mT.contiguous() if ".mlp.experts." in name else tensor
        for name, tensor in tensors_of(case.checkpoint).items()
    }
    save_file(tensors, published / "model.safetensors")
    model = builds.load(compile_model(published, tmp_path / "build"), published)
    expected = reference.read(case.reference)
    assert parity.prompt(model, expected) <= parity.TOLERANCE
    with pytest.raises(ValueError, match="another shape"):
        builds.load(tmp_path / "build", case.checkpoint)
