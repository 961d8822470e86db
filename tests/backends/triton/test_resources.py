"""The resources of a kernel, read from what compilers write, and compared with a
GPU."""

from __future__ import annotations

import dataclasses

import pytest

from glmc.backends.triton.resources import (
    Resources,
    UnreadableUsage,
    cuda_usage,
    hip_usage,
    instructions,
    occupancy,
    problem,
)
from glmc.backends.triton.targets import LIMITS, Target

KERNEL = Resources(registers=64, spills=0, shared=0, num_warps=8)


def test_cuobjdump_is_read() -> None:
    usage = (
        "Resource usage:\n Common:\n  GLOBAL:0\n Function other:\n"
        "  REG:1 STACK:2 SHARED:0 LOCAL:3\n Function k:\n"
        "  REG:40 STACK:16 SHARED:0 LOCAL:8 CONSTANT[0]:400\n"
    )
    assert cuda_usage("k", usage) == (40, 24)
    with pytest.raises(UnreadableUsage, match="cuobjdump said"):
        cuda_usage("absent", usage)


def test_the_notes_in_assembly_are_read() -> None:
    notes = "    .private_segment_fixed_size: 12\n    .vgpr_count:     184\n"
    assert hip_usage(notes) == (184, 12)
    with pytest.raises(UnreadableUsage, match="vgpr_count"):
        hip_usage("")


def test_instructions_are_counted() -> None:
    ptx = "wgmma.mma_async.sync\n cp.async.bulk.tensor.2d\n cp.async.cg.shared\n"
    assert instructions("cuda", ptx) == {"wgmma": 1, "TMA": 1, "cp.async": 1}


@pytest.mark.parametrize(
    ("change", "warps"),
    # By NVIDIA's occupancy calculator, compute capability 9.0.
    [
        ({}, 32),
        ({"registers": 32}, 64),
        ({"registers": 255}, 8),
        ({"registers": 33}, 48),
        ({"shared": 113 * 1024}, 16),
        ({"shared": 114 * 1024}, 8),
        ({"num_warps": 1}, 32),
    ],
)
def test_occupancy_is_nvidias(change: dict[str, int], warps: int) -> None:
    assert occupancy(dataclasses.replace(KERNEL, **change), LIMITS["cuda:90"]) == warps


def test_problems_are_told() -> None:
    target = Target("cuda:90")
    assert problem(KERNEL, target) is None
    told = {
        "spills 8 bytes": {"spills": 8},
        "shared memory": {"shared": 228 * 1024},
        "registers": {"registers": 255, "num_warps": 32},
    }
    for words, change in told.items():
        found = problem(dataclasses.replace(KERNEL, **change), target)
        assert found is not None
        assert words in found
