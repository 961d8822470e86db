"""A build as a program: torch.export, AOTInductor, torch.compile without breaks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from support import builds
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Compile = Callable[[Path], Path]


class Logits(torch.nn.Module):
    """Ids to logits alone."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(ids, use_cache=False).logits
        return logits


@pytest.fixture
def model(tiny: MakeTiny, compiled: Compile) -> Any:
    case = tiny(BY_NAME["llama-gqa"])
    found = builds.load(compiled(case.checkpoint), case.checkpoint)
    found(*rows(2, 7))  # brings the operations, which are imported when first needed
    return found


def rows(batch: int, tokens: int) -> tuple[torch.Tensor]:
    return (torch.randint(3, 60, (batch, tokens)),)


def off(model: Any, got: torch.Tensor, given: tuple[torch.Tensor]) -> float:
    """The largest difference to a call of the model."""
    return float((got - model(*given).logits).abs().max())


@torch.no_grad()
def test_exported_for_one_length(model: Any) -> None:
    given = rows(2, 7)
    program = torch.export.export(Logits(model), given)
    assert off(model, program.module()(*given), given) < 1e-6


def dynamic(model: Any) -> Any:
    batch, tokens = torch.export.Dim("batch", max=8), torch.export.Dim("tokens", max=64)
    sizes = {0: batch, 1: tokens}
    shapes = {"ids": sizes}
    return torch.export.export(Logits(model), rows(2, 7), dynamic_shapes=shapes)


@torch.no_grad()
def test_exported_for_all_lengths(model: Any, tmp_path: Path) -> None:
    torch.export.save(dynamic(model), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch, tokens in ((2, 7), (3, 19), (2, 33)):
        given = rows(batch, tokens)
        assert off(model, program(*given), given) < 1e-6


@torch.no_grad()
def test_exported_before_any_call(tiny: MakeTiny, tmp_path: Path) -> None:
    """Tables of a program that is being recorded are not kept for calls."""
    case = tiny(BY_NAME["llama-gqa"])
    build = compile_model(case.checkpoint, tmp_path / "build")
    model, given = builds.load(build, case.checkpoint), rows(2, 7)
    program = torch.export.export(model, given, {"use_cache": False})
    logits = model(*given).logits
    assert type(logits) is torch.Tensor
    assert off(model, program.module()(*given, use_cache=False).logits, given) < 1e-6


@pytest.mark.slow
@torch.no_grad()
def test_compiled_ahead_of_time(model: Any, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    file = str(tmp_path / "model.pt2")
    torch._inductor.aoti_compile_and_package(dynamic(model), package_path=file)
    program = torch._inductor.aoti_load_package(file)
    for batch, tokens in ((2, 7), (3, 19)):
        given = rows(batch, tokens)
        assert off(model, program(*given), given) < 5e-5


@torch.no_grad()
def test_compiled_without_a_break(model: Any) -> None:
    given = rows(2, 7)
    torch._dynamo.reset()
    program = torch.compile(Logits(model), fullgraph=True, backend="aot_eager")
    assert off(model, program(*given), given) < 1e-6


def test_values_are_looked_at_outside_of_programs(model: Any) -> None:
    """The control: what is left out while tracing is checked in a call."""
    with pytest.raises(ValueError, match="holds ids from"):
        model(torch.tensor([[5, 1000]]))


def test_a_mask_is_refused_while_a_program_is_recorded(model: Any) -> None:
    class Masked(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
            return model(ids, mask, use_cache=False).logits

    (ids,) = rows(2, 7)
    with pytest.raises(ValueError, match="where padding ends is not known"):
        torch.export.export(Masked(), (ids, torch.ones_like(ids)))
