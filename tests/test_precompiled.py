"""Kernels compiled with a build are what its launchers ask Triton for.

There is no GPU: Triton is given one that is not there, which launches nothing. All
else is real: the build's model, its launchers, and Triton's search in its cache.
"""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support import GOLDEN, ROOT
from support.builds import import_build
from support.cli import glmc, python

SCRIPT = """
import json, sys, warnings
from types import SimpleNamespace

folder, checkpoint, arch, dtype = sys.argv[1:]
sys.path.insert(0, folder)
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Absent:
    get_current_target = lambda self: GPUTarget("cuda", int(arch), 32)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0
    launcher_cls = lambda self, source, metadata: lambda *launch: None
    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 1 << 18},
        load_binary=lambda *binary: (None, None, 0, 0, 1024),
    )

asked = []
def listen(*, src, metadata, metadata_group, times, cache_hit):
    asked.append((src.name, cache_hit))

driver.set_active(Absent())
knobs.compilation.listener = listen
import build, build.kernels, build.precompiled
capability = (int(arch) // 10, int(arch) % 10)
torch.cuda.get_device_capability = lambda device: capability
build.kernels.present_target = lambda device: f"cuda:{arch}"
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    offered = build.precompiled.offer(torch.device("cuda"))
model = build.load(checkpoint, device="cpu", dtype=dtype)
model.ops = build.kernels
ids = torch.tensor([[0, 5, 6], [5, 6, 7]])
with torch.no_grad():
    model(ids.repeat(1, 8))  # more rows than products of few take
    for mask in (None, torch.tensor([[0, 1, 1], [1, 1, 1]])):
        out = model(ids, attention_mask=mask)
        model(ids[:, :1], past_key_values=out.past_key_values)
    alone = model(ids[:1]).past_key_values
    model(ids[:1, :1], past_key_values=alone)
    for _ in model.generate(ids[:1], max_new_tokens=3, stream=True):
        pass
print(json.dumps({
    "offered": offered, "asked": asked, "told": [str(w.message) for w in told]
}))
"""


def build_for(targets: str, folder: Path) -> Path:
    """The golden ChatGLM3 with kernels in two dtypes for some GPUs."""
    source, dtypes = GOLDEN / "chatglm3", "f16,bf16"
    run = glmc("compile", source, "-o", folder, "--aot", targets, "--aot-dtype", dtypes)
    assert run.returncode == 0, run.stderr
    assert all(f"{target}  (triton" in run.stdout for target in targets.split(","))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_for("cuda:90", tmp_path_factory.mktemp("aot") / "build")


def ask(
    build: Path, tmp_path: Path, *, arch: int = 90, dtype: str = "float16"
) -> dict[str, Any]:
    """Return what the build offers to Triton, and what Triton is asked for."""
    if build != tmp_path / "build":
        shutil.copytree(build, tmp_path / "build")
    cache = {"TRITON_CACHE_DIR": str(tmp_path / "triton")}
    arguments: list[str | Path] = [tmp_path, GOLDEN / "chatglm3", str(arch), dtype]
    script_run = python(SCRIPT, *arguments, cwd=tmp_path, **cache)
    assert script_run.returncode == 0, script_run.stderr
    found: dict[str, Any] = json.loads(script_run.stdout.splitlines()[-1])
    return found


def test_no_kernel_is_compiled_that_came_with_the_build(
    built: Path, tmp_path: Path
) -> None:
    check_hits(ask(built, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "dtype"), [(90, "float16"), (80, "bfloat16")])
def test_no_kernel_is_compiled_that_came_with_a_build_for_several_gpus(
    tmp_path: Path, arch: int, dtype: str
) -> None:
    both = build_for("cuda:80,cuda:90", tmp_path / "both")
    check_hits(ask(both, tmp_path, arch=arch, dtype=dtype))


def check_hits(found: dict[str, Any]) -> None:
    assert found["told"] == []
    assert found["offered"] == 2 * len(found["asked"])  # two dtypes, one is used
    assert [name for name, hit in found["asked"] if not hit] == []
    assert {"prefill_kernel", "qkv_decode_kernel"} <= {n for n, _ in found["asked"]}


def test_control_an_edited_kernel_is_compiled(built: Path, tmp_path: Path) -> None:
    edited = shutil.copytree(built, tmp_path / "build")
    text = (edited / "kernels.py").read_text()
    assert "(SCALE * LOG2_E)" in text
    kernels = text.replace("(SCALE * LOG2_E)", "(LOG2_E * SCALE)")
    (edited / "kernels.py").write_text(kernels)
    asked = ask(edited, tmp_path)["asked"]
    missed = {name for name, hit in asked if not hit}
    assert missed == {"prefill_kernel", "qkv_decode_kernel"}


@pytest.mark.slow
def test_control_another_form_of_prefill_is_compiled(
    built: Path, tmp_path: Path
) -> None:
    edited = shutil.copytree(built, tmp_path / "build")
    text = (edited / "kernels.py").read_text()
    assert '2: ("cuda:90", ' in text
    (edited / "kernels.py").write_text(text.replace('2: ("cuda:90", ', "2: ("))
    asked = ask(edited, tmp_path)["asked"]
    assert {name for name, hit in asked if not hit} == {"prefill_kernel"}


@pytest.fixture
def offered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, list[str]]]:
    """Return the number of kernels that a build offers on a GPU, and the warnings."""

    def offer(build: Path, arch: int = 90) -> tuple[int, list[str]]:
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
        capability = divmod(arch, 10)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        package = import_build(build).__name__
        precompiled = importlib.import_module(f"{package}.precompiled")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            count = precompiled.offer(torch.device("cuda"))
        return count, [str(one.message) for one in told]

    return offer


Offered = Callable[..., tuple[int, list[str]]]


def test_another_gpu_is_offered_nothing(built: Path, offered: Offered) -> None:
    assert offered(built)[0] > 0
    assert offered(built, 89) == (0, [])


def test_another_triton_is_told_of(
    built: Path, tmp_path: Path, offered: Offered
) -> None:
    index = shutil.copytree(built, tmp_path / "build") / "aot/resources.json"
    listed = json.loads(index.read_text())
    index.write_text(json.dumps(listed | {"triton": "2.0.0"}))
    count, told = offered(index.parent.parent)
    assert count == 0
    assert "2.0.0" in told[0]


def test_a_damaged_kernel_is_not_offered(
    built: Path, tmp_path: Path, offered: Offered
) -> None:
    damaged = shutil.copytree(built, tmp_path / "build")
    binary = next((damaged / "aot/cuda-90").glob("qkv_decode_kernel-*.cubin"))
    binary.write_bytes(b"\x00" + binary.read_bytes()[1:])
    count, told = offered(damaged)
    whole = len(list((damaged / "aot/cuda-90").glob("*.cubin")))
    assert count == whole - 1
    assert binary.name in told[0]


def test_a_damaged_index_is_told_of(
    built: Path, tmp_path: Path, offered: Offered
) -> None:
    damaged = shutil.copytree(built, tmp_path / "build")
    (damaged / "aot/resources.json").write_text('{"triton": 1, "kernels": [{}]}')
    count, told = offered(damaged)
    assert count == 0
    assert "could not be handed" in told[0]


def test_the_files_are_the_manifests(built: Path) -> None:
    files = json.loads((built / "manifest.json").read_text())["files"]
    kept = {
        path.relative_to(built).as_posix()
        for path in (built / "aot").rglob("*")
        if path.is_file()
    }
    assert kept <= set(files)
    assert str(ROOT).encode() not in b"".join((built / k).read_bytes() for k in kept)


def test_dtypes_alone_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "build"
    run = glmc("compile", GOLDEN / "chatglm3", "-o", out, "--aot-dtype", "f16")
    assert run.returncode == 2
    assert "--aot" in run.stderr
    assert not out.exists()


def test_a_refused_target_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "build"
    run = glmc("compile", GOLDEN / "chatglm3", "-o", out, "--aot", "cuda:1")
    assert run.returncode == 2
    assert "cuda:80" in run.stderr
    assert not out.exists()
