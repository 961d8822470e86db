"""Compile the C++ of a build for processors that may not be at hand."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from glmc.backends.cpu.names import NATIVE
from glmc.backends.runtime.instructions import ELEMENTS, FAMILIES, file_name, flags
from glmc.backends.target import Ahead, Emitted
from glmc.ir.errors import AheadOfTimeError, KernelDtypeError

PORTABLE = ("-static-libstdc++", "-static-libgcc")
"""The target machine may have another C++ library, or none."""
X86 = "x86_64"


def compile_ahead(
    emitted: Emitted, dtypes: Sequence[str], chips: Sequence[str]
) -> Ahead:
    """Compile a library for each chip and dtype.

    Raises:
        GlmcError: for a dtype without kernels, without a compiler for the chip's kind
            of processor, or where that fails.
    """
    for dtype in dtypes:
        if dtype not in ELEMENTS:
            raise KernelDtypeError(
                f"The C++ for CPUs has no kernels for dtype {dtype!r}: it computes with"
                f" {', '.join(ELEMENTS)}. Choose one of them."
            )
    files: dict[str, str | bytes] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = dict(_sources(emitted))
        for file, text in texts.items():
            (folder / file).write_bytes(text)
        for chip in chips:
            for dtype in dtypes:
                level = chip.partition(":")[2]
                binary = _compiled(folder, level, dtype)
                path = f"{NATIVE}/{file_name(level, dtype, texts)}"
                files[path] = binary
                rows.append({"chip": chip, "dtype": dtype, "bytes": len(binary)})
    return Ahead(files, rows, "\n".join(_line(row) for row in rows))


def _sources(emitted: Emitted) -> Iterator[tuple[str, bytes]]:
    for path, text in emitted.items():
        folder, _, name = path.partition("/")
        if folder == NATIVE:
            assert isinstance(text, str)
            yield name, text.encode()


def _compiled(folder: Path, level: str, dtype: str) -> bytes:
    """Run the compiler; return the library."""
    out = folder / "out.so"
    command = [_compiler(level), *flags(level, dtype), *PORTABLE, "model.cpp"]
    done = subprocess.run(
        [*command, "-o", str(out)], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        told = (errors or done.stderr.splitlines() or ["it said nothing"])[0]
        raise AheadOfTimeError(
            f"{command[0]} failed to compile this model for cpu:{level}: {told}. Name"
            " another compiler with the variable CXX, or leave --aot out."
        )
    return out.read_bytes()


def _compiler(level: str) -> str:
    """Find a compiler for a kind of processor: the system's, or what CXX names."""
    family = FAMILIES.get(level, X86 if level != "generic" else "")
    crossing = f"{family}-linux-gnu-g++"
    for name in filter(
        None, (os.environ.get("CXX"), "c++", "g++", "clang++", crossing)
    ):
        found = shutil.which(name)
        if found and _makes(found).startswith(family):
            return found
    raise AheadOfTimeError(
        f"cpu:{level} needs a C++ compiler for {family or 'this machine'}, and there is"
        f" none ($CXX, c++, g++, clang++, {crossing}). Install one, or leave --aot out:"
        " the build is compiled where it runs."
    )


def _makes(compiler: str) -> str:
    """Return the kind of processor that a compiler makes code for."""
    done = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True)
    return done.stdout.strip()


def _line(row: dict[str, Any]) -> str:
    return f"{row['chip']:16} {row['dtype']:5} {row['bytes'] / 1e3:7.0f} kB"
