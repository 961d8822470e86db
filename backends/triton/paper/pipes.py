"""Issue cycles of instructions: what the pipes of a core take in, and how fast.

A scheduler issues one instruction of a warp a cycle, but a pipe that has fewer lanes
than a warp has threads is busy for several. Lanes are those of "Throughput of Native
Arithmetic Instructions" in NVIDIA's CUDA C++ Best Practices Guide.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glmc.backends.triton.paper.sass import Instruction

# A core has four schedulers, each with a quarter of its lanes.
SCHEDULERS = 4
_THREADS = 32

_INTEGER = (
    *("LOP3", "PLOP3", "SHF", "IADD", "VIADD", "LEA", "PRMT", "SEL", "ISETP", "IMNMX"),
    *("VIMNMX", "BREV", "FMNMX", "FSETP", "FSEL", "SGXT", "BMSK", "I2FP", "F2FP"),
)
_FLOAT = ("FFMA", "FADD", "FMUL")
_MULTIPLY = ("IMAD",)
_SPECIAL = ("MUFU", "I2F", "F2I", "F2F", "FLO", "POPC")
_SHUFFLE = ("SHFL",)
_TENSOR = re.compile(r"(?:^|\.)(?:(\d+)x(\d+)x(\d+)|(1688|16816|16832|16864))(?:\.|$)")
_SHAPES: Mapping[str, tuple[int, int, int]] = {
    "1688": (16, 8, 8),
    "16816": (16, 8, 16),
    "16832": (16, 8, 32),
    "16864": (16, 8, 64),
}


@dataclass(frozen=True)
class Work:
    """Some instructions of a warp.

    cycles    of a scheduler that issuing them takes, the busiest pipe's if that is more
    products  operations (2 of a multiply-add) of those on tensor cores
    """

    cycles: int
    products: int


def work(code: Sequence[Instruction], chip: str) -> Work:
    """Count what some instructions take on a chip, a name in ``targets.LIMITS``."""
    busy = [
        sum(one.name.startswith(names) for one in code) * _THREADS * SCHEDULERS // lanes
        for names, lanes in _pipes(chip)
    ]
    return Work(max([len(code), *busy]), sum(map(_products, code)))


def _pipes(chip: str) -> list[tuple[tuple[str, ...], int]]:
    """Return the instructions of each pipe, and its lanes in a core."""
    floats = 64 if chip == "cuda:80" else 128
    return [
        (_INTEGER, 64),
        (_FLOAT, floats),
        (_MULTIPLY, 64),
        (_SHUFFLE, 32),
        (_SPECIAL, 16),
    ]


def _products(one: Instruction) -> int:
    """Return the operations of a tensor core's instruction, of one warp.

    ``HGMMA`` is one instruction of four warps.
    """
    if not one.name.endswith("MMA"):
        return 0
    found = _TENSOR.search(one.opcode)
    if found is None:
        return 0
    if found[4]:
        m, n, k = _SHAPES[found[4]]
        return 2 * m * n * k
    return 2 * int(found[1]) * int(found[2]) * int(found[3]) // 4
