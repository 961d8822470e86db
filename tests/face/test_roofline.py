"""``glmc inspect --cost``: floors of a call, and what each fusion took off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmc.ir.errors import GlmcError
from glmc.look import roofline
from glmc.look.builds import Build
from glmc.look.devices import DEVICES, device
from glmc.look.inspecting import summary
from support import EXAMPLES, GOLDEN
from support.cli import glmc, refused


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("llama") / "build"
    run = glmc("compile", EXAMPLES / "configs/llama-3.1-70b.json", "-o", folder)
    assert run.returncode == 0, run.stderr
    return Build(folder)


@pytest.fixture(scope="module")
def tiny(compiled: Callable[[Path], Path]) -> Path:
    return compiled(GOLDEN / "chatglm3")


def test_a_decoded_token_reads_every_weight_and_every_slot(llama: Build) -> None:
    found = roofline.facts(llama, roofline.call_of(1, 4095, 1), device("h200"))
    sizes = summary(llama)
    model = llama.model
    table = model.vocab * model.hidden * 2  # the embedding is looked up, not read
    least = sizes["weight_bytes"] - table + 4096 * sizes["state_bytes_per_token"]
    assert least < found["total"]["nbytes"] < 1.01 * least
    floor = found["total"]["nbytes"] / 4800e3
    assert found["total"]["floor"] == pytest.approx(floor)


def test_a_prompt_is_bound_by_its_products(llama: Build) -> None:
    call = roofline.call_of(1, 0, 4096)
    lines = roofline.lines(llama.program, call, device("h200"), llama.target)
    bounds = {
        graph: {line.bound for line in lines if line.graph == graph}
        for graph in ("stem", "layer", "head")
    }
    # The head multiplies one token only.
    assert bounds == {"stem": {"bytes"}, "layer": {"flops"}, "head": {"bytes"}}
    # Two operations for each weight and token, by far the most of it.
    products = 2 * 4096 * (summary(llama)["parameters"] - 2 * 128256 * 8192)
    assert products < roofline.total(lines).flops < 1.1 * products


def test_what_fusions_took_off_adds_up(llama: Build) -> None:
    call, on = roofline.call_of(2, 100, 3), device("l4")
    stages = list(llama.stages)[1:]
    off = roofline.saved(llama, call, on)
    assert [name for name, _ in off] == stages[1:]
    launches = [stage["launches"] for stage in summary(llama)["stages"]]
    assert sum(taken.launches for _, taken in off) == launches[0] - launches[-1]
    assert sum(taken.nbytes for _, taken in off) > 0


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_a_source_and_gives_a_floor(name: str, tiny: Path) -> None:
    found = roofline.facts(Build(tiny), roofline.call_of(1, 8, 1), device(name))
    assert found["device"]["source"]
    assert found["total"]["floor"] > 0


def test_the_command_shows_ops_layers_and_the_whole(tiny: Path) -> None:
    run = glmc("inspect", tiny, "--cost", "h100", "--batch", "4", "--context", "50")
    assert run.returncode == 0, run.stderr
    for words in ("H100 SXM: 3350 GB/s", "layer x", "  a layer", "a call", "saved"):
        assert words in run.stdout
    run = glmc("inspect", tiny, "--cost", "h100", "--json")
    facts: dict[str, Any] = json.loads(run.stdout)
    assert facts["call"] == {"batch": 1, "tokens": 1, "context": 1024}
    assert facts["total"]["launches"] == sum(
        op["times"] * op["launches"] for op in facts["ops"]
    )


def test_kernels_are_told_launch_by_launch(tiny: Path) -> None:
    run = glmc("inspect", tiny, "--kernels", "h200", "--context", "50", "--json")
    assert run.returncode == 0, run.stderr
    facts: dict[str, Any] = json.loads(run.stdout)
    ops = [launch["op"] for launch in facts["launches"]]
    assert "qkv_attention" in ops
    assert "linear_add" in ops
    assert facts["total"] == pytest.approx(
        sum(launch["times"] * launch["time"] for launch in facts["launches"])
    )
    assert all(launch["resources"]["spills"] == 0 for launch in facts["launches"])


def test_what_has_no_kernels_or_cores_is_refused(tiny: Path, tmp_path: Path) -> None:
    assert "h100" in refused(glmc("inspect", tiny, "--kernels", "l4"))
    manifest = json.loads((tiny / "manifest.json").read_text())
    shutil.copytree(tiny, tmp_path / "build")
    changed = json.dumps(manifest | {"target": "cpu"})
    (tmp_path / "build" / "manifest.json").write_text(changed)
    message = refused(glmc("inspect", tmp_path / "build", "--kernels", "h200"))
    assert "--target cuda" in message


def test_what_cannot_be_is_refused(tiny: Path) -> None:
    message = refused(glmc("inspect", tiny, "--cost", "abacus"))
    assert "h200" in message
    message = refused(glmc("inspect", tiny, "--cost", "h200", "--batch", "0"))
    assert "--batch 0" in message


@pytest.mark.parametrize(("ranks", "least"), [(2, 1.9), (8, 6.9)])
def test_a_rank_has_its_part_of_the_time(
    llama: Build, ranks: int, least: float
) -> None:
    call, on = roofline.call_of(1, 4095, 1), device("h200")
    alone, found = (roofline.facts(llama, call, on, n) for n in (None, ranks))
    assert least < alone["total"]["floor"] / found["total"]["floor"] < ranks
    assert found["weight_bytes"] < 1.02 * alone["weight_bytes"] / ranks
    # A sum behind each of two products of 80 layers, one of the embedding, the logits.
    assert found["total"]["collectives"] == 2 * 80 + 2
    each = 2 * 8192 * 2 * (ranks - 1) // ranks
    assert found["total"]["sent"] == 161 * each + 128256 * 2 * (ranks - 1) // ranks
    said = roofline.text(llama, call, on, ranks)
    assert f"{ranks} ranks, figures of one" in said
    assert "450 GB/s in one direction (NVIDIA's data sheet); no latency" in said


def test_more_ranks_than_a_machine_has_send_by_the_network(llama: Build) -> None:
    on = device("h200")
    # All of 16 MB in the machine, and an eighth of it, half of that each way, between.
    within, between = 16e6 * 7 / 8 / 450e3, 16e6 / 8 / 2 / 50e3
    assert roofline.sending(15_000_000, 16, on) == pytest.approx(within + between)
    assert roofline.sending(14_000_000, 8, on) == pytest.approx(14e6 / 450e3)
    call = roofline.call_of(1, 100, 1)
    with pytest.raises(GlmcError, match="64 heads of @q_proj cannot be dealt to 128"):
        roofline.text(llama, call, on, 128)
    assert "machines of 8" in roofline.text(llama, call, on, 16)
