"""The C++ of a build as a library: found where it was compiled before, or compiled.

A library is for one set of instructions and one dtype, and its name has a hash of all
that it was made from. It lies beside its source, or where that cannot be written to in
the user's cache. Only whole libraries come there, and of two processes that want one,
the second waits for the first.
"""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from .instructions import FAMILIES, LEVELS, file_name, flags

SOURCES = Path(__file__).parent / "native"
DTYPES = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}
#: Chooses a set of instructions that is not the best.
VARIABLE = "GLMC_CPU"
SECONDS = 300.0


class NoLibrary(Exception):
    """Raised where there is no library, with a sentence for people."""


@functools.cache
def features() -> frozenset[str]:
    """Returns the instructions of this processor, as Linux calls them."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    known = {"AVX512": LEVELS["avx512"], "AVX2": LEVELS["avx2"]}
    arm = platform.machine() in (FAMILIES["neon"], "arm64")
    found = known.get(torch.backends.cpu.get_cpu_capability(), ())
    return frozenset(("asimd",) if arm else found)


def levels() -> list[str]:
    """Returns the sets of instructions that this machine has, the best first, or the
    one that the environment names. Raises NoLibrary where the machine lacks that."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return [name for name, needs in LEVELS.items() if features() >= {*needs}]
    if wanted not in LEVELS:
        raise NoLibrary(f"{VARIABLE}={wanted} is none of {', '.join(LEVELS)}")
    missing = sorted({*LEVELS[wanted]} - features())
    if missing:
        raise NoLibrary(
            f"{VARIABLE}={wanted}: this processor has no {', '.join(missing)}"
        )
    return [wanted]


def sources() -> dict[str, bytes]:
    """Returns the C++ of the build, by the names of its files."""
    found = sorted(SOURCES.iterdir())
    return {one.name: one.read_bytes() for one in found if one.suffix in (".cpp", ".h")}


@functools.cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """Returns the library for this machine: the best that is there or can be compiled,
    or else another that came with the build. Raises NoLibrary, and why there is
    none."""
    if dtype not in DTYPES:
        raise NoLibrary(f"there are no kernels for {dtype}")
    best, *others = levels()
    texts, places = sources(), [SOURCES, cache_folder()]

    def known(level: str) -> Path | None:
        files = (place / file_name(level, DTYPES[dtype], texts) for place in places)
        return next((file for file in files if file.is_file()), None)

    if found := known(best):
        return opened(found)
    try:
        return opened(made(best, DTYPES[dtype], texts, places))
    except NoLibrary:
        lesser = next(filter(None, map(known, others)), None)
        if lesser is None:
            raise
        return opened(lesser)


def made(
    level: str, dtype: str, texts: Mapping[str, bytes], places: Sequence[Path]
) -> Path:
    """Compiles a library into the first place that can be written to."""
    free = [place for place in places if writable(place)]
    if not free:
        raise NoLibrary(f"neither {places[0]} nor {places[1]} can be written to")
    return compile_to(free[0] / file_name(level, dtype, texts), flags(level, dtype))


def cache_folder() -> Path:
    """Returns the folder in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "glmc" / "cpu"


def writable(folder: Path) -> bool:
    """Tells whether files can be made in a folder, which is made first."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder.is_dir() and os.access(folder, os.W_OK)


def opened(path: Path) -> ctypes.CDLL:
    """Loads a library. Raises NoLibrary where the system does not take it."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoLibrary(f"{path} cannot be loaded ({error}); delete it") from None


def compiler() -> str:
    """Returns the C++ compiler: $CXX, or what the system has. Raises NoLibrary."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    for name in filter(None, names):
        if found := shutil.which(name):
            return found
    ahead = sorted({file.name.partition("-")[0] for file in SOURCES.glob("*.so")})
    came = f" (those that came with it are for {', '.join(ahead)})" if ahead else ""
    raise NoLibrary(
        "there is no library of this build for this processor and dtype"
        f"{came} and no C++ compiler (c++, g++, clang++, or what $CXX names); install"
        " one, or compile the library ahead of time: `glmc compile --target cpu --aot"
        f" cpu:{levels()[0]}`"
    )


def compile_to(path: Path, arguments: list[str]) -> Path:
    """Compiles the library, unless another process does so first; whole or not at
    all."""
    command = compiler()
    with locked(path.with_suffix(".lock")):
        if path.is_file():
            return path
        print(
            f"compiling this model's kernels ({path.name}); the next start finds them",
            file=sys.stderr,
            flush=True,
        )
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        source = str(SOURCES / "model.cpp")
        try:
            _compile([command, *arguments, source, "-o", str(draft)], path)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    return path


def _compile(command: list[str], path: Path) -> None:
    """Runs the compiler. Raises NoLibrary with its last line; all of them are kept."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibrary(f"{command[0]} did not compile it: {error}") from None
    if done.returncode == 0:
        return
    log = path.with_suffix(".log")
    log.write_text(" ".join(command) + "\n" + done.stderr)
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    last = errors[0] if errors else done.stderr.strip().rpartition("\n")[2]
    raise NoLibrary(f"{command[0]} failed: {last} (all it said is in {log})")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file; it ends with the process that holds it."""
    try:
        import fcntl
    except ImportError:  # a system without it compiles twice, and puts the same there
        yield
        return
    with open(path, "a") as file:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise NoLibrary(f"another process holds {path}") from None
                time.sleep(0.05)
        yield
    with suppress(OSError):
        path.unlink()


@functools.cache
def told(reason: str) -> None:
    """Warns, once for each reason, that the reference runs."""
    warnings.warn(
        f"the kernels of this build are not used, and plain torch runs instead, which "
        f"is slower: {reason}.",
        stacklevel=4,
    )
