"""Layers that share the weights of an earlier one, each with adapters of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmc.ir import model as m
from glmc.ir.errors import GlmcError
from glmc.ir.lower import lower
from support import builds
from support.configs import FAMILIES
from support.loading import Load, Refusal
from support.variants import BY_NAME, Tiny, Variant

COPY = "model.layers.3.shared_transformer.self_attn.q_proj.weight"


@pytest.fixture
def case(tiny: Callable[[Variant], Tiny]) -> Tiny:
    return tiny(BY_NAME["zamba2-adapters"])


def changed(case: Tiny, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The checkpoint with other tensors."""
    copytree(case.checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def answer(build: Path, checkpoint: Path) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.tensor([[5, 6, 7, 8]])
        logits: torch.Tensor = builds.load(build, checkpoint)(ids).logits
    return logits


def test_they_are_one_tensor(case: Tiny, compiled: Callable[[Path], Path]) -> None:
    model = builds.load(compiled(case.checkpoint), case.checkpoint)
    first, second, third = (model.layers[n].q_proj for n in (1, 2, 3))
    assert first.data_ptr() == third.data_ptr()
    assert first.data_ptr() != second.data_ptr()
    one, other = (model.layers[n].q_down for n in (1, 3))
    assert one.data_ptr() != other.data_ptr()
    assert type(model.layers[1]) is type(model.layers[3])


def test_copies_may_be_missing(
    case: Tiny, compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    def without(tensors: dict[str, Any]) -> None:
        for name in [n for n in tensors if n.startswith("model.layers.3.shared")]:
            del tensors[name]

    build = compiled(case.checkpoint)
    bare = changed(case, tmp_path / "bare", without)
    assert torch.equal(answer(build, bare), answer(build, case.checkpoint))


def test_copies_that_differ_are_refused(
    case: Tiny, compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    def moved(tensors: dict[str, Any]) -> None:
        tensors[COPY] = tensors[COPY] + 1

    wrong = changed(case, tmp_path / "wrong", moved)
    with pytest.raises((GlmcError, ValueError), match=r"layers\.3\.shared_transf"):
        answer(compiled(case.checkpoint), wrong)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"layers_block_type": None}, "an entry for each of num_hidden_layers"),
        ({"layers_block_type": ["mamba", "hybrid"]}, "an entry for each"),
        ({"layers_block_type": ["mamba", "both", "mamba", "mamba"]}, "'both'"),
        ({"num_mem_blocks": 0}, "num_mem_blocks must be 1 or more"),
        ({"adapter_rank": 0}, "adapter_rank"),
        ({"attention_hidden_size": 64}, "twice the hidden_size"),
        ({"mamba_ngroups": 3}, "a multiple of mamba_ngroups"),
        ({"use_long_context": True}, "how far its rope reaches"),
    ],
)
def test_configs_that_cannot_be(
    refusal: Refusal, values: dict[str, Any], told: str
) -> None:
    assert told in refusal(FAMILIES["zamba2"] | values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"n_mamba_heads": 3}, "a multiple of n_mamba_heads"),
        ({"n_mamba_heads": 1}, "it must be 2 or more"),
        ({"layers_block_type": ["mamba"]}, "an entry for each"),
        ({"layers_block_type": None, "num_hidden_layers": 2}, "three layers or more"),
        ({"mamba_d_state": 0}, "mamba_d_state"),
    ],
)
def test_parts_that_cannot_be(
    refusal: Refusal, values: dict[str, Any], told: str
) -> None:
    assert told in refusal(FAMILIES["zamba"] | values)


def test_an_attention_reads_the_width_that_it_is_given(load: Load) -> None:
    model = load(FAMILIES["zamba2"]).model
    block = next(b for b in model.blocks if b.chains)
    step = block.steps[0]
    assert step.aside
    alone = step.aside.model_copy(update={"beside": False})
    wrong = step.model_copy(update={"aside": alone})
    changed = block.model_copy(update={"steps": (wrong,)})
    blocks = tuple(changed if b is block else b for b in model.blocks)
    model = model.model_copy(update={"blocks": blocks})
    assert isinstance(alone.links[0].op, m.Attention)
    with pytest.raises(GlmcError, match="reads 128 channels"):
        lower(model)
