"""Tuned tiles: read into the tables of the kernels, or refused with a sentence."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from glmc.backends.runtime.tuning import (
    TuningError,
    apply_tuning,
    present_target,
    tiles,
)

TILE = {"ROWS": 64, "SLOTS": 32, "num_warps": 4, "num_stages": 3}


@pytest.fixture
def kernels(tmp_path: Path) -> ModuleType:
    """Tables of every form that kernels.py has."""
    file = tmp_path / "kernels.py"
    file.write_text("# kernels\n")
    module: Any = ModuleType("kernels")
    module.__file__ = str(file)
    module.DECODE = {2: dict(TILE), 4: dict(TILE, ROWS=16)}
    module.SKINNY = {2: {8192: {"ROWS": 32, "PARTS": 1}, 0: {"ROWS": 16, "PARTS": 8}}}
    module.MOE = {2: ({"COLS": 64}, {"COLS": 128})}
    module.SPLITS, module.KINDS = 64, {(True, False): min}
    module.lower = {2: {"ROWS": 1}}
    return module  # type: ignore[no-any-return]


def write(kernels: ModuleType, source: str | None = None, **targets: Any) -> None:
    file = Path(str(kernels.__file__))
    known = {"kernels": source or hashlib.sha256(file.read_bytes()).hexdigest()}
    file.with_name("tuning.json").write_text(json.dumps(known | targets))


def test_tiles_are_found_in_every_table(kernels: ModuleType) -> None:
    assert list(tiles(kernels)) == [
        "DECODE/2",
        "DECODE/4",
        "SKINNY/2/8192",
        "SKINNY/2/0",
        "MOE/2/0",
        "MOE/2/1",
    ]


def test_the_present_targets_tiles_are_taken(kernels: ModuleType) -> None:
    faster = {**TILE, "ROWS": 16, "num_warps": 8}
    on = {"DECODE/2": faster, "MOE/2/1": {"COLS": 32}}
    write(kernels, **{"cuda:90": on, "cuda:80": {"DECODE/2": TILE}})
    assert apply_tuning(kernels, "cuda:100") == 0
    assert apply_tuning(kernels, "cuda:90") == 2
    assert kernels.DECODE[2] == faster
    assert kernels.DECODE[4]["ROWS"] == 16
    assert kernels.MOE[2] == ({"COLS": 64}, {"COLS": 32})


def test_the_present_target_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    present_target.cache_clear()
    try:
        assert present_target("cpu") == "cpu"
        assert present_target(torch.device("cuda")) == "cuda:90"
        # A capability of AMD's GPUs says something else than NVIDIA's.
        properties = SimpleNamespace(gcnArchName="gfx90a:sramecc+:xnack-")
        monkeypatch.setattr(torch.version, "hip", "7.0")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        assert present_target(torch.device("cuda:1")) == "hip:gfx90a"
    finally:
        present_target.cache_clear()


def test_amd_takes_no_limit_of_registers(kernels: ModuleType) -> None:
    kernels.DECODE[2]["maxnreg"] = 255
    assert apply_tuning(kernels, "cuda:90") == 0
    assert kernels.DECODE[2] == {**TILE, "maxnreg": 255}
    write(kernels, **{"hip:gfx942": {"DECODE/2": {**TILE, "ROWS": 16}}})
    assert apply_tuning(kernels, "hip:gfx942") == 1
    assert kernels.DECODE[2] == {**TILE, "ROWS": 16}


def test_without_a_file_the_defaults_hold(kernels: ModuleType) -> None:
    assert apply_tuning(kernels, "cuda:90") == 0
    assert kernels.DECODE[2] == TILE


def test_what_was_measured_for_other_kernels_is_passed_over(
    kernels: ModuleType,
) -> None:
    write(kernels, source="0" * 64, **{"cuda:90": {"DECODE/2": {**TILE, "ROWS": 16}}})
    with pytest.warns(UserWarning, match="measured for other kernels"):
        assert apply_tuning(kernels, "cuda:90") == 0
    assert kernels.DECODE[2] == TILE


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"PREFILL/2": TILE}, "there is no tile PREFILL/2; kernels.py has"),
    "size": ({"DECODE/2": {**TILE, "ROWS": 48}}, "DECODE/2: ROWS is 48; give a power"),
    "text": ({"DECODE/2": {**TILE, "SLOTS": "32"}}, "SLOTS is '32'; give a power of"),
    "true": ({"DECODE/2": {**TILE, "SLOTS": True}}, "SLOTS is True; give a power of"),
    "stages": ({"DECODE/2": {**TILE, "num_stages": 0}}, "is 0; give 1 or more"),
    "names": ({"DECODE/2": {"ROWS": 16}}, "DECODE/2 has ROWS; it takes ROWS, SLOTS,"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses_a_table(kernels: ModuleType, name: str) -> None:
    found, reason = WRONG[name]
    write(kernels, **{"cuda:90": {"DECODE/4": {**TILE, "ROWS": 128}, **found}})
    with pytest.raises(TuningError, match=re.escape(reason)):
        apply_tuning(kernels, "cuda:90")
    assert kernels.DECODE[4]["ROWS"] == 16  # all or nothing


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"kernels": 1, "cuda:90": [1]}'])
def test_refuses_a_damaged_file(kernels: ModuleType, text: str) -> None:
    Path(str(kernels.__file__)).with_name("tuning.json").write_text(text)
    with pytest.raises(TuningError, match="cannot be read"):
        apply_tuning(kernels, "cuda:90")
