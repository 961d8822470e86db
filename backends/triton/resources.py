"""The resources that a compiled kernel takes of a GPU, read from its compiler's output.

Works on text alone; ``worker`` gets it from Triton.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from glmc.backends.triton.targets import Limits, Target

# What to look for in PTX and in AMD's assembly: name in the table -> how it is written.
INSTRUCTIONS: Mapping[str, Mapping[str, str]] = {
    "cuda": {
        "tcgen05.mma": r"\btcgen05\.mma\b",
        "wgmma": r"\bwgmma\.mma_async\b",
        "mma": r"\bmma\.sync\b",
        "fma.f32": r"\bfma\.rn\.f32\b",
        "TMA": r"\bcp\.async\.bulk\b",
        "cp.async": r"\bcp\.async\.c[ag]\b",
        "ldmatrix": r"\bldmatrix\b",
        "ld.128": r"\bld\.global\S*\.v(?:4\.b32|4\.f32|2\.b64)\b",
        "atomics": r"\b(?:atom|red)\.global\b",
    },
    "hip": {
        "mfma": r"\bv_mfma_\w+",
        "load.128": r"\b(?:global|buffer)_load_dwordx4\b",
        "lds load": r"\bbuffer_load_\w+.*\blds\b",
        "atomics": r"\bglobal_atomic_\w+",
    },
}


class UnreadableUsage(Exception):
    """A compiler's report in a form that the parser does not know."""


@dataclass(frozen=True)
class Resources:
    """The resources that a kernel takes.

    registers     32-bit registers of a thread
    spills        bytes of a thread that went to memory, for want of registers
    shared        bytes of shared memory of a program
    num_warps     of a program
    instructions  how often the notable ones occur in its text
    """

    registers: int
    spills: int
    shared: int
    num_warps: int
    instructions: Mapping[str, int] = field(default_factory=dict)


def cuda_usage(kernel: str, usage: str) -> tuple[int, int]:
    """Parse (registers, spilled bytes) of ``kernel`` from ``cuobjdump -res-usage``.

    Emitted kernels keep no arrays of their own: bytes of stack or local are spills.
    """
    line = usage.partition(f"Function {kernel}:")[2]
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", line))
    if len(found) != 3:
        raise UnreadableUsage(f"cuobjdump said {usage!r}")
    return int(found["REG"]), int(found["STACK"]) + int(found["LOCAL"])


def hip_usage(assembly: str) -> tuple[int, int]:
    """Parse (vector registers, spilled bytes) from the notes in AMD's assembly.

    Of gfx90a and later, accumulation registers come from the same file and are
    counted in. Scratch memory counts as spilled, scalars kept in vector registers do
    not.
    """
    wanted = ("vgpr_count", "private_segment_fixed_size")
    found = {}
    for name in wanted:
        value = re.search(rf"^\s*\.{name}:\s*(\d+)", assembly, re.MULTILINE)
        if value is None:
            raise UnreadableUsage(f"the assembly has no .{name}")
        found[name] = int(value[1])
    return found["vgpr_count"], found["private_segment_fixed_size"]


def instructions(backend: str, text: str) -> dict[str, int]:
    """Count the notable instructions in PTX or assembly; those that do not occur are
    left out."""
    counts = {
        name: len(re.findall(written, text))
        for name, written in INSTRUCTIONS[backend].items()
    }
    return {name: count for name, count in counts.items() if count}


def occupancy(taken: Resources, limits: Limits) -> int:
    """Estimate the warps that can be resident on a core at once, by registers, shared
    memory, slots.

    An estimate, as NVIDIA's occupancy calculator makes it: registers are handed to
    warps in steps, shared memory to programs.
    """
    warp = taken.registers * limits.threads
    warp = -(-max(warp, 1) // limits.step) * limits.step
    by_registers = limits.registers // warp // taken.num_warps
    shared = taken.shared + limits.reserved
    by_shared = limits.shared // shared if shared else limits.programs
    by_warps = limits.warps // taken.num_warps
    programs = min(by_registers, by_shared, by_warps, limits.programs)
    return programs * taken.num_warps


def problem(taken: Resources, target: Target) -> str | None:
    """Give the reason why a kernel must not be used on a target, or None."""
    limits = target.limits
    if taken.spills:
        return (
            f"spills {taken.spills} bytes of each thread to memory"
            f" ({taken.registers} registers, {taken.num_warps} warps)"
        )
    if taken.shared > limits.program:
        return (
            f"needs {taken.shared} bytes of shared memory, a program has"
            f" {limits.program}"
        )
    if not occupancy(taken, limits):
        return f"needs more registers than a core has ({taken.registers} a thread)"
    return None
