"""`bench/gpu.py` on a CPU: every section runs, and the table says what was measured."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from glmc.backends.torch import ops as reference
from support import ROOT, builds
from support.cli import python
from support.kernels import interpreter

BENCH = ROOT / "bench"


@pytest.fixture(scope="module")
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of the folder."""
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module
    sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def tiny(shared_folder: Path, load: Callable[[str], ModuleType]) -> Path:
    """A folder with the small builds."""

    def make(folder: Path) -> None:
        made = load("gpu_builds")
        for shape in made.TINY:
            assert list(made.write(shape, folder))

    return builds.once(shared_folder / "gpu", make)


@pytest.fixture(scope="module")
def bench(tiny: Path, load: Callable[[str], ModuleType]) -> Any:
    sections, timing = load("gpu_sections"), load("gpu_timing")
    clock = timing.Clock("cpu", quick=True)
    read = timing.streaming_read(clock, 1 << 20)
    assert 0.01 < read < 1e4
    llama = tiny / "tiny_llama", tiny / "tiny-llama.json"
    rest = "cpu", torch.float32, clock, read, sections.TINY, "eager"
    return sections.Bench(*llama, *rest)


COLUMNS = {
    "decode": ("batch", "tok/s", "of read", "path"),
    "per kernel": ("op", "calls", "us", "GB/s", "of read"),
    "kv read": ("op", "slots", "GB/s", "of read"),
    "attention": ("model", "TFLOP/s", "ratio"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_section_gives_its_rows(
    bench: Any, load: Callable[[str], ModuleType], name: str
) -> None:
    rows = list(load("gpu_sections").SECTIONS[name](bench))
    assert rows
    for row in rows:
        assert tuple(row) == COLUMNS[name]
        assert all(v > 0 for v in row.values() if isinstance(v, float) and v == v)


def test_kinds_of_calls_are_those_of_the_layers(
    bench: Any, load: Callable[[str], ModuleType]
) -> None:
    rows = {row["op"]: row for row in load("gpu_sections").per_kernel(bench)}
    assert rows["rms_norm_linear float32[192, 64]"]["calls"] == 2  # gate and up, merged
    assert rows["rms_norm_linear float32[128, 64]"]["calls"] == 3  # qkv, and the head
    assert rows["qkv_attention"]["calls"] == 2


def test_bytes_are_those_of_the_weights(
    bench: Any, load: Callable[[str], ModuleType]
) -> None:
    model = bench.model
    table = model.embed_tokens.nbytes
    whole = sum(weight.nbytes for weight in model.parameters())
    assert load("gpu_sections").weight_bytes(bench) == whole - table


@pytest.mark.slow
def test_others_take_turns(bench: Any, load: Callable[[str], ModuleType]) -> None:
    sections = load("gpu_sections")
    found = {row["model"]: row["why"] for row in sections.beside(bench)}
    assert found == dict.fromkeys(found, "")
    assert len(found) == 4
    assert {row["model"] for row in sections.prefill(bench)} == {"glmc", "transformers"}


def test_the_plain_model_continues_what_it_read(
    bench: Any, load: Callable[[str], ModuleType]
) -> None:
    """One token after the prompt is what the prompt with that token gives."""
    models = load("gpu_models")
    torch.manual_seed(0)
    plain = models.Plain(models.Sizes.of(bench.config), 8).eval()
    ids, at = bench.ids(1, 5), torch.arange(5)
    with torch.no_grad():
        want = plain(ids, at)
        plain(ids[:, :4], at[:4])
        assert torch.equal(plain(ids[:, 4:], at[4:]), want)


def compare(load: Callable[[str], ModuleType], kernel: Any) -> Any:
    calls = load("gpu_calls")
    ops = SimpleNamespace(rms_norm=kernel)
    compared = calls.Comparison(ops, reference)
    x, weight = torch.randn(1, 3, 8), torch.ones(8)
    compared.look(calls.Call("rms_norm", (x, weight), {"eps": 1e-5}))
    return compared.worst["rms_norm"]


def test_comparison_sees_what_a_kernel_gets_wrong(
    load: Callable[[str], ModuleType],
) -> None:
    right: Any = reference.rms_norm
    assert compare(load, lambda *a, **k: right(*a, **k)) == 0
    assert compare(load, lambda *a, **k: right(*a, **k) * 1.01) > 1
    assert compare(load, lambda *a, **k: right(*a, **k).half()) == math.inf
    assert compare(load, lambda *a, **k: right(*a, **k) * math.nan) == math.inf


def test_comparison_sees_slots_written_wrongly(
    bench: Any, load: Callable[[str], ModuleType]
) -> None:
    def wrong(qkv: torch.Tensor, kv: Any, **rest: Any) -> torch.Tensor:
        out = reference.qkv_attention(qkv, kv, **rest)
        kv.values[:, :, kv.past] += 1
        return out

    calls = load("gpu_calls")
    ops = SimpleNamespace(**{**vars(bench.reference), "qkv_attention": wrong})
    compared = calls.Comparison(ops, bench.reference)
    with calls.watching(bench.model, bench.reference, compared.look), torch.no_grad():
        bench.model(bench.ids(1, 3))
    assert compared.worst["qkv_attention"] > 1


@pytest.mark.slow
def test_interpreted_kernels_are_right(
    tiny: Path, bench: Any, load: Callable[[str], ModuleType]
) -> None:
    sections = load("gpu_sections")
    glm = tiny / "tiny_glm", tiny / "tiny-glm.json"
    rest = "cpu", torch.float32, bench.clock, bench.read, sections.TINY, "eager"
    with interpreter():
        rows = list(sections.kernels(sections.Bench(*glm, *rest)))
    assert {row["right"] for row in rows} == {"yes"}
    assert "qkv_attention" in {row["op"] for row in rows}


@pytest.mark.slow
def test_one_call_measures_a_build(tiny: Path, tmp_path: Path) -> None:
    """In processes of its own."""
    out = tmp_path / "gpu.json"
    code = f"""
import runpy, sys
sys.argv = ["gpu.py", "--device", "cpu", "--tiny", "--builds", {str(tiny)!r}, "--only",
            "tiny-llama", "--out", {str(out)!r}, "--sections", "kv read", "no such"]
sys.path.insert(0, {str(BENCH)!r})
runpy.run_path({str(BENCH / "gpu.py")!r}, run_name="__main__")
"""
    run = python(code, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    read, other = json.loads(out.read_text())["sections"]
    assert read["error"] is None
    assert read["rows"][0]["slots"] == 24
    assert "no such" in other["error"]
    table = out.with_suffix(".md").read_text()
    assert "- not measured: tiny-llama, no such: KeyError" in table


def test_a_process_that_dies_takes_one_section_with_it(
    load: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = load("gpu")
    started: list[list[str]] = []

    def run(build: str, sections: Any, options: Any, lines: Path, budget: float) -> str:
        started.append(list(sections))
        for name in sections:
            gpu._append(lines, {"begun": name})
            if name == "b":
                return "its process ended with -11"
            gpu._append(lines, {"section": name, "error": None})
        return "its process ended with 0"

    monkeypatch.setattr(gpu, "_run", run)
    options = argparse.Namespace(out=tmp_path / "gpu.json")
    found = list(gpu.measure("x", ["a", "b", "c"], options, time.monotonic() + 9))
    assert [line["section"] for line in found] == ["a", "b", "c"]
    assert [line["error"] for line in found] == [
        None,
        "its process ended with -11",
        None,
    ]
    assert started == [["a", "b", "c"], ["c"]]
    monkeypatch.setattr(gpu, "_run", lambda *_: "its process ended with 1")
    found = list(gpu.measure("x", ["a", "b"], options, time.monotonic() + 9))
    assert [line["error"] for line in found] == ["its process ended with 1"] * 2


def test_the_page_says_what_was_not_measured(load: Callable[[str], ModuleType]) -> None:
    report = load("gpu_report")
    page = (ROOT / "docs" / "performance.md").read_text()
    assert page == report.page([], json.loads(report.PAPER.read_text()))
    figures, models = len(report.FIGURES), len(report.MODELS)
    assert page.count(report.NOT_YET) == figures * models


def test_the_table_shows_figures_where_they_belong(
    load: Callable[[str], ModuleType],
) -> None:
    report = load("gpu_report")

    def section(build: str, name: str, *rows: Any, error: str | None = None) -> Any:
        return {"build": build, "section": name, "rows": rows, "error": error}

    rate = {"batch": 1, "tok/s": 200.0, "of read": 0.87}
    results = {
        "environment": {"device": "H200", "torch": "2.11"},
        "sections": [
            section("m", "decode", {"batch": 16, "tok/s": 900.0, "of read": 0.5}, rate),
            section("m-int8", "decode", {**rate, "tok/s": 350.0}),
            section("m", "kernels", {"op": "a", "right": "NO"}, {"right": "yes"}),
            section("m", "beside", error="RuntimeError: no"),
        ],
    }
    page = report.page([results])
    lines = {
        line.split("|")[1].strip(): line for line in page.splitlines() if "|" in line
    }
    assert "| 200 |" in lines["decode, bf16, batch 1: tok/s"]
    assert "| 900 |" in lines["decode, bf16, batch 16: tok/s"]
    assert "| 0.87 |" in lines["its part of the measured read"]
    assert "| 1.75 |" in lines["int8 over bf16"]
    assert "| 1 |" in lines["kernels that differ from the reference"]
    assert report.NOT_YET in lines["int4 over bf16"]
    assert "- not measured: m, beside: RuntimeError: no" in page
