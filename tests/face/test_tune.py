"""`glmc tune`: the best candidate is found, written, and what the launchers take."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glmc import compile_model
from glmc.command.cli import main
from glmc.use.tuning import CANDIDATES, Timer, Unfit, search, spills, write
from support import GOLDEN, builds


@pytest.fixture
def build(compiled: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A copy of a build, to write into."""
    return Path(shutil.copytree(compiled(GOLDEN / "chatglm3"), tmp_path / "build"))


def parts(build: Path) -> tuple[Any, Any]:
    name = builds.import_build(build).__name__
    kernels, tables = (
        importlib.import_module(f"{name}.{part}") for part in ("kernels", "tuning")
    )
    return kernels, tables


def test_the_best_is_found_written_and_read(build: Path) -> None:
    kernels, tables = parts(build)
    every = tables.tiles(kernels)
    used: dict[str, int] = every["DECODE/2"]
    used |= {"SLOTS": 32, "num_warps": 4}
    default = dict(kernels.DECODE[2])

    def run() -> int:  # a launcher
        return used["ROWS"] * used["SLOTS"] * used["num_warps"]

    def measure() -> float:
        if used["SLOTS"] == 128 and used["num_warps"] == 4:
            raise RuntimeError("out of resource: shared memory")
        if used["SLOTS"] == 128:
            raise Unfit("decode_kernel spills")
        # The fastest but for the two above: 64 slots, 8 warps, any rows.
        return 2.0 - used["SLOTS"] / 128 - used["num_warps"] / 16

    told: list[str] = []
    found = search(every, run, measure, told.append)
    assert list(found) == ["DECODE/2"]
    assert found["DECODE/2"] == {**default, "SLOTS": 64, "num_warps": 8}
    assert len(told) == 1
    assert told[0].startswith("DECODE/2: ")
    write(build, kernels, tables, found, "cuda:90")
    write(build, kernels, tables, {}, "cuda:80")
    fresh, tables = parts(build)
    assert fresh.DECODE[2] != found["DECODE/2"]
    assert tables.apply_tuning(fresh, "cuda:80") == 0
    assert tables.apply_tuning(fresh, "cuda:90") == 1
    assert fresh.DECODE[2] == found["DECODE/2"]


def test_noise_changes_nothing(build: Path) -> None:
    kernels, tables = parts(build)
    every = tables.tiles(kernels)
    before = json.dumps(every)
    times = iter(1.0 - 0.0001 * n for n in range(10_000))
    assert search(every, lambda: every["DECODE/2"]["ROWS"], times.__next__, print) == {}
    assert json.dumps(every) == before


def test_programs_that_count_each_other_keep_their_rows() -> None:
    tile = {"ROWS": 16, "COLUMNS": 128, "PARTS": 8, "num_warps": 4}
    tried: list[tuple[int, ...]] = []

    def measure() -> float:
        tried.append((tile["ROWS"], tile["PARTS"]))
        return 1.0

    search({"SKINNY/2/0": tile}, lambda: tile["ROWS"], measure, print)
    assert len(tried) > len(CANDIDATES["num_warps"])
    assert set(tried) == {(16, 8)}


def test_kernels_that_spill_are_seen() -> None:
    def kernel(*spilled: int) -> Any:
        compiled = {n: SimpleNamespace(n_spills=each) for n, each in enumerate(spilled)}
        return SimpleNamespace(device_caches={0: (compiled, {})})

    assert spills(SimpleNamespace(a=kernel(0, 0), b=len, c=kernel())) is None  # type: ignore[arg-type]
    assert spills(SimpleNamespace(a=kernel(0), b=kernel(4, 8))) == "b"  # type: ignore[arg-type]


def test_other_results_are_no_candidate() -> None:
    factor = [1.0]
    timer = Timer([lambda: torch.ones(3) * factor[0]], SimpleNamespace())  # type: ignore[arg-type]
    factor[0] = 1.5
    with pytest.raises(Unfit, match="other results"):
        timer()


def test_recompiling_keeps_what_was_measured(build: Path) -> None:
    (build / "tuning.json").write_text("{}")
    compile_model(GOLDEN / "chatglm3", build)
    assert (build / "tuning.json").read_text() == "{}"


def test_without_a_gpu_it_says_so(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(build), "--weights", str(GOLDEN / "chatglm3")]) == 2
    assert "there is none here" in capsys.readouterr().err
