"""Every kernel becomes a binary for real GPUs, without one, and none spills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glmc.backends.triton import aot_specs
from glmc.backends.triton.aot import Resources, compile_spec, read_usage
from glmc.ir.errors import GlmcError
from support import TESTS
from support.kernels import norm_use

TARGETS = ("cuda:80", "cuda:90")
# What a program may take on every GPU from sm_80 on: consumer chips have the least.
SHARED = 99 * 1024


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    jobs = []
    for target in TARGETS:
        environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
        command = [sys.executable, "-m", "support.compile_kernels", target]
        jobs.append(
            subprocess.Popen(
                command, cwd=TESTS, env=environment, stdout=subprocess.PIPE, text=True
            )
        )
    lines = [line for job in jobs for line in job.communicate()[0].splitlines()]
    assert [job.returncode for job in jobs] == [0] * len(jobs)
    return [json.loads(line) for line in lines]


def test_every_kernel_becomes_a_binary(compiled: list[dict[str, Any]]) -> None:
    kernels = {(found["kernel"], found["target"]) for found in compiled}
    assert len({kernel for kernel, _ in kernels}) == 15
    assert len(kernels) == 15 * len(TARGETS)
    assert all(found["binary"] > 1000 for found in compiled)


def test_no_kernel_spills(compiled: list[dict[str, Any]]) -> None:
    spilling = [
        found
        for found in compiled
        if found["resources"]["stack"] or found["resources"]["local"]
    ]
    assert not spilling


def test_every_kernel_fits_every_gpu(compiled: list[dict[str, Any]]) -> None:
    assert not [found for found in compiled if found["shared"] > SHARED]


@pytest.mark.parametrize("target", ["cuda", "cuda:", "cuda:ninety", "tpu:4", ""])
def test_an_unknown_target_is_refused(target: str, tmp_path: Path) -> None:
    spec = aot_specs([norm_use("rms_norm")], "bf16")[0]
    with pytest.raises(GlmcError, match="cuda:80"):
        compile_spec(type(sys)("kernels"), spec, target)


def test_resources_are_read_from_cuobjdump() -> None:
    usage = (
        "Resource usage:\n Common:\n  GLOBAL:0\n Function other:\n"
        "  REG:1 STACK:2 SHARED:0 LOCAL:3\n Function k:\n"
        "  REG:40 STACK:16 SHARED:0 LOCAL:8 CONSTANT[0]:400\n"
    )
    assert read_usage("k", usage) == Resources(registers=40, stack=16, local=8)
    with pytest.raises(GlmcError, match="cuobjdump said"):
        read_usage("absent", usage)
