"""Compile emitted kernels for a target, on a machine that need not have it.

The only module of this backend that imports triton, and only when it compiles.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from glmc.backends.triton.specs import AotSpec
from glmc.ir.errors import GlmcError

BINARIES = {"cuda": "cubin", "hip": "hsaco"}
WARP_SIZES = {"cuda": 32, "hip": 64}


@dataclass(frozen=True)
class Resources:
    """What one thread of a CUDA kernel takes. Bytes of stack or local are spills."""

    registers: int
    stack: int
    local: int


@dataclass(frozen=True)
class Compiled:
    """A kernel for a target.

    binary     cubin or hsaco
    shared     bytes of shared memory that a program takes
    resources  registers and spills; None for targets other than CUDA
    """

    kernel: str
    target: str
    binary: bytes
    shared: int
    num_warps: int
    resources: Resources | None


def compile_spec(module: ModuleType, spec: AotSpec, target: str) -> Compiled:
    """Compile the kernel ``spec.kernel`` of an emitted ``module`` for ``target``.

    ``target`` is e.g. "cuda:80", "cuda:90" or "hip:gfx942". The module must have been
    imported without TRITON_INTERPRET. Raises GlmcError for a target it cannot name and
    for kernels that cannot be compiled here.
    """
    backend, gpu = _target(target)
    from triton import compile as compile_kernel
    from triton.compiler import ASTSource

    fn = getattr(module, spec.kernel)
    if not hasattr(fn, "cache_key"):
        raise GlmcError(
            f"Kernel {spec.kernel} cannot be compiled: {module.__name__} was imported"
            " under TRITON_INTERPRET. Unset it and start a new process."
        )
    names: list[str] = fn.arg_names
    kinds = dict(spec.signature) | dict.fromkeys(spec.constants, "constexpr")
    source = ASTSource(
        fn,
        signature={name: kinds[name] for name in names},
        constexprs=dict(spec.constants),
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in spec.aligned},
    )
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages}
    built = compile_kernel(source, target=gpu, options=options)
    binary: bytes = built.asm[BINARIES[backend]]
    return Compiled(
        kernel=spec.kernel,
        target=target,
        binary=binary,
        shared=built.metadata.shared,
        num_warps=built.metadata.num_warps,
        resources=_resources(spec.kernel, binary) if backend == "cuda" else None,
    )


def _target(text: str) -> tuple[str, Any]:
    backend, _, chip = text.partition(":")
    named = chip.isdigit() if backend == "cuda" else bool(chip)
    if backend not in BINARIES or not named:
        raise GlmcError(
            f"Unknown target {text!r}: expected cuda:CAPABILITY, such as cuda:80 or"
            " cuda:90, or hip:CHIP, such as hip:gfx942."
        )
    from triton.backends.compiler import GPUTarget

    arch = int(chip) if backend == "cuda" else chip
    return backend, GPUTarget(backend, arch, WARP_SIZES[backend])


def _resources(kernel: str, cubin: bytes) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage = subprocess.run(
            [_cuobjdump(), "-res-usage", str(file)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return read_usage(kernel, usage)


def read_usage(kernel: str, usage: str) -> Resources:
    """The resources of ``kernel`` in the output of ``cuobjdump -res-usage``."""
    line = usage.partition(f"Function {kernel}:")[2]
    found: Mapping[str, str] = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", line))
    if len(found) != 3:
        raise GlmcError(
            f"Cannot read the resources of kernel {kernel}: cuobjdump said {usage!r}."
        )
    return Resources(int(found["REG"]), int(found["STACK"]), int(found["LOCAL"]))


def _cuobjdump() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
