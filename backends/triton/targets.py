"""The GPUs that kernels are compiled for, and the resources of one of their cores.

Limits are those of NVIDIA's CUDA C++ Programming Guide ("Technical Specifications per
Compute Capability") and of AMD's CDNA instruction set architecture guides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from glmc.ir.errors import UnknownDeviceError


@dataclass(frozen=True)
class Limits:
    """The resources that a core (streaming multiprocessor, compute unit) has for its
    programs.

    registers  32-bit registers of a core; `step` of them go to a warp at a time
    warps      resident at most, `programs` of them at most
    shared     bytes of shared memory of a core; `program` at most for one program,
               `reserved` are added to what each asks for
    threads    of a warp
    """

    registers: int
    step: int
    warps: int
    programs: int
    shared: int
    program: int
    reserved: int
    threads: int


def _sm(warps: int, programs: int, shared: int) -> Limits:
    kib = 1024
    return Limits(
        65536, 256, warps, programs, shared * kib, (shared - 1) * kib, kib, 32
    )


def _cdna(shared: int) -> Limits:
    # Four SIMDs of eight waves, each with 512 vector registers for every lane.
    return Limits(4 * 512 * 64, 8 * 64, 32, 32, shared * 1024, shared * 1024, 0, 64)


LIMITS: Mapping[str, Limits] = {
    "cuda:80": _sm(64, 32, 164),
    "cuda:86": _sm(48, 16, 100),
    "cuda:89": _sm(48, 24, 100),
    "cuda:90": _sm(64, 32, 228),
    "cuda:100": _sm(64, 32, 228),
    "cuda:120": _sm(48, 24, 100),
    "hip:gfx90a": _cdna(64),
    "hip:gfx942": _cdna(64),
    "hip:gfx950": _cdna(160),
}


# Cores of a GPU of each target: A100, A40, L40S, H100, B200, RTX PRO 6000; MI250X (one
# of its two), MI300X, MI355X.
CORES: Mapping[str, int] = {
    "cuda:80": 108,
    "cuda:86": 84,
    "cuda:89": 142,
    "cuda:90": 132,
    "cuda:100": 148,
    "cuda:120": 188,
    "hip:gfx90a": 110,
    "hip:gfx942": 304,
    "hip:gfx950": 256,
}


@dataclass(frozen=True)
class Target:
    """A GPU that kernels are compiled for: ``cuda:90``, ``hip:gfx942``."""

    name: str

    @property
    def backend(self) -> str:
        """Triton's name of its maker: "cuda" or "hip"."""
        return self.name.partition(":")[0]

    @property
    def arch(self) -> int | str:
        """Triton's name of the architecture: 90, "gfx942"."""
        chip = self.name.partition(":")[2]
        return int(chip) if self.backend == "cuda" else chip

    @property
    def limits(self) -> Limits:
        """The resources of one of its cores."""
        return LIMITS[self.name]

    @property
    def binary(self) -> str:
        """The ending of its binaries' names."""
        return "cubin" if self.backend == "cuda" else "hsaco"


def parse_targets(names: Iterable[str]) -> tuple[Target, ...]:
    """Parse targets by name, each once, in the order given.

    Raises:
        GlmcError: for a name that is not in :data:`LIMITS`.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in LIMITS:
            raise UnknownDeviceError(
                f"Unknown target {name!r}: kernels can be compiled for"
                f" {', '.join(LIMITS)}. cuda:90 is a GPU of compute capability 9.0."
            )
        found.append(Target(name))
    return tuple(found)
