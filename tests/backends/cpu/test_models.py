"""Builds for CPUs compute what transformers does, with C++ for all or part of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from glmc.command.cli import main
from support import GOLDEN, builds, parity, reference
from support.parity import SCENARIOS, TOLERANCE
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]

# First one without, then one with steps of the reference between the C++.
NAMES = (
    *("llama-gqa", "qwen3_next-interval"),
    *("llama-tied", "llama-biases", "llama-dynamic", "llama-longrope", "llama-yarn"),
    *("llama-proportional", "mistral-window", "qwen3-tied", "glm-partial"),
    *("gpt2-tied", "gemma2-capped", "gemma3_text-two_ropes", "bloom-six_heads"),
    *("olmo-clipped", "cohere-qk_norms", "opt-post_norm", "smollm3-nope"),
    *("ministral3-grown_queries", "bitnet-sub_norms", "granite_swa-sinks"),
    *("llama4_text-chunks", "gpt_oss-sinks", "mixtral-experts", "qwen2_moe-gated"),
    *("deepseek_v3-groups", "glm_moe_dsa-selects", "jetmoe-heads", "lfm2-gates"),
    *("mamba2-groups", "granitemoehybrid-experts", "olmo_hybrid-reflections"),
    *("mamba-channels", "jamba-hybrid", "falcon_h1-norms", "nemotron_h-experts"),
    *("kimi_linear-counted", "lfm2_moe-experts", "minicpm3-scaled", "phimoe-mixed"),
    *("dots3_note_text-windows", "granitemoe_swa-sinks", "qwen3_5_moe_text-experts"),
    *("longcat_flash-biases", "deepseek_v2-groups", "granitemoe-after"),
)
# What layers hand on, or are given, is no row of numbers a token.
WHOLE = ("gemma3n_text-streams", "gemma4_text-everything", "beam-factors")


@pytest.fixture(scope="session")
def made(shared_folder: Path) -> Callable[[Path], Path]:
    """Compile (once) a model folder for CPUs."""

    def get(source: Path) -> Path:
        def make(folder: Path) -> None:
            compile_model(source, folder / "build", target="cpu")

        name = "-".join(source.parts[-2:])
        return builds.once(shared_folder / "cpu" / name, make) / "build"

    return get


@pytest.mark.parametrize("name", first(2, NAMES))
def test_logits_are_those_of_transformers(
    name: str, tiny: MakeTiny, made: Callable[[Path], Path]
) -> None:
    case = tiny(BY_NAME[name])
    model = builds.load(made(case.checkpoint), case.checkpoint)
    calls: list[int] = []
    run = model.engine.run

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return run(*arguments)

    model.engine.run = counted
    theirs = reference.read(case.reference)
    for scenario in parity.of(BY_NAME[name]):
        assert SCENARIOS[scenario](model, theirs) <= TOLERANCE, scenario
    assert calls


@pytest.mark.parametrize("name", first(1, WHOLE))
def test_where_there_is_no_cpp_torch_computes(
    name: str, tiny: MakeTiny, made: Callable[[Path], Path]
) -> None:
    case = tiny(BY_NAME[name])
    model = builds.load(made(case.checkpoint), case.checkpoint)
    assert model.engine is None
    theirs = reference.read(case.reference)
    scenario = next(iter(parity.of(BY_NAME[name])))
    assert SCENARIOS[scenario](model, theirs) <= TOLERANCE


@pytest.mark.parametrize("bits", first(1, [4, 8]))
def test_codes_are_multiplied_as_the_weights_they_stand_for(
    bits: int, shared_folder: Path, made: Callable[[Path], Path]
) -> None:
    source = GOLDEN / "chatglm2"

    def make(folder: Path) -> None:
        command = ["quantize", str(source), "-o", str(folder / "codes")]
        assert main([*command, "--bits", str(bits), "--embeddings"]) == 0

    folder = builds.once(shared_folder / f"codes{bits}", make) / "codes"
    build = made(folder)
    assert f'"codes{bits}"' in (build / "steps.py").read_text()
    model = builds.load(build, folder)
    ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
    found = model(ids).logits
    saved = model.state_dict()
    model.engine = None
    assert torch.allclose(model(ids).logits, found, atol=2e-3)
    plain = builds.load(build, folder, dtype="float64").state_dict()
    codes = [name for name, weight in plain.items() if weight.dtype == torch.int8]
    assert codes
    assert all(torch.equal(saved[name], plain[name]) for name in codes)
