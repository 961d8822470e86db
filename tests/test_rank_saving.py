"""Weights that several ranks hold are written back as they were published."""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from glmc import compile_model
from support import builds, ranked
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Change = Callable[[Any, int], None]


def saved(
    module: ModuleType, checkpoint: Path, folder: Path, change: Change, stages: int = 1
) -> list[torch.Tensor]:
    """Change what ranks hold, and save it; return the logits of each."""

    def run(here: Any) -> torch.Tensor:
        model = module.load(checkpoint, dtype="float32", ranks=here)
        with torch.no_grad():
            change(model, here.rank)
            module.save(model, folder)
            logits: torch.Tensor = model(ranked.prompt()).logits
        return logits

    return ranked.on_threads(module, 2, run, stages)


def nothing(model: Any, rank: int) -> None:
    """Leave all as it was loaded."""


def everything(model: Any, rank: int) -> None:
    """Change every parameter, and what ranks share alike."""
    for weight in model.parameters():
        weight.mul_(1.25)


def biased(model: Any, rank: int) -> None:
    """Change biases that the first rank adds."""
    for name, weight in model.named_parameters():
        if rank == 0 and name.endswith("c_proj_bias"):
            weight.add_(0.125)


@pytest.mark.parametrize(
    ("name", "options", "change"),
    [
        ("llama-gqa", {}, nothing),
        ("llama-gqa", {}, everything),
        ("mixtral-experts", {"expert_parallel": True}, everything),
        ("qwen2-tied", {"pipeline_parallel": 2}, everything),
        ("gpt2-tied", {}, biased),
        *first(0, [("gpt2-tied", {}, everything), ("mamba2-groups", {}, everything)]),
    ],
)
def test_ranks_save_what_one_loads(
    name: str,
    options: dict[str, Any],
    change: Change,
    tiny: MakeTiny,
    tmp_path: Path,
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2, **options)
    stages = options.get("pipeline_parallel", 1)
    every = saved(module, checkpoint, tmp_path / "saved", change, stages)
    files = sorted(file.name for file in checkpoint.glob("*.safetensors*"))
    same = filecmp.cmpfiles(checkpoint, tmp_path / "saved", files, shallow=False)[0]
    assert (sorted(same) == files) == (change is nothing)
    alone = compile_model(checkpoint, tmp_path / "alone")
    with torch.no_grad():
        logits = builds.load(alone, tmp_path / "saved")(ranked.prompt()).logits
    for got in every:
        assert (got - logits).abs().max() <= ranked.LOGITS * max(1, logits.abs().max())


def test_rows_beyond_the_vocabulary_are_not_saved(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    odd = ranked.odd(tiny(BY_NAME["llama-gqa"]).checkpoint, tmp_path / "odd")
    module = ranked.compiled(odd, tmp_path / "build", 2)
    saved(module, odd, tmp_path / "saved", everything)
    before = load_file(odd / "model.safetensors")
    after = load_file(tmp_path / "saved/model.safetensors")
    assert list(before) == list(after)
    for name, weight in before.items():
        assert torch.equal(after[name], 1.25 * weight), name


def apart(model: Any, rank: int) -> None:
    """Change a norm on one rank alone."""
    if rank:
        model.norm.add_(1)


def beside(model: Any, rank: int) -> None:
    """Give the second rank a bias of its own."""
    for name, weight in model.named_parameters():
        if rank and name.endswith("c_proj_bias"):
            weight.add_(0.125)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("llama-gqa", apart, "norm of rank 1 has other values than the one before"),
        ("gpt2-tied", beside, "is what the first rank adds"),
    ],
)
def test_ranks_that_differ_are_told_apart(
    name: str, change: Change, told: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)
    said: list[str] = []

    def run(here: Any) -> None:
        model = module.load(checkpoint, dtype="float32", ranks=here)
        with torch.no_grad():
            change(model, here.rank)
        try:
            module.save(model, tmp_path / "saved")
        except ValueError as error:
            said.append(str(error))

    ranked.on_threads(module, 2, run)
    assert len(said) == 2, "a sentence on every rank"
    assert all(told in one for one in said)
    assert not (tmp_path / "saved").exists()


def test_a_folder_that_exists_ends_all(tiny: MakeTiny, tmp_path: Path) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)
    with pytest.raises(ValueError, match="exists; name a folder that does not"):
        saved(module, checkpoint, tmp_path, nothing)


def test_gradients_do_not_go_through_ranks(tiny: MakeTiny, tmp_path: Path) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)

    def run(here: Any) -> None:
        model = module.load(checkpoint, dtype="float32", ranks=here)
        model.requires_grad_()
        model(ranked.prompt())

    with pytest.raises(ValueError, match="gradients do not go through"):
        ranked.on_threads(module, 2, run)


def test_a_build_of_ranks_has_no_class_of_transformers(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    module = ranked.compiled(checkpoint, tmp_path / "build", 2)
    assert not hasattr(module, "hf")
    with pytest.raises(AttributeError, match="compile without --tensor-parallel"):
        _ = module.hf
