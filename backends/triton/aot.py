"""Compile emitted kernels ahead of time, on a machine that need not have the GPU.

Nothing here imports triton: the compiling is done by ``worker``, in processes that are
free of whatever this one has imported and of what its environment says to Triton.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.util import find_spec
from typing import Any

from glmc.backends.triton.dry import AotSpec
from glmc.backends.triton.registry import aot_specs
from glmc.backends.triton.resources import Resources, occupancy, problem
from glmc.backends.triton.targets import Target, parse_targets
from glmc.backends.triton.uses import OpUse
from glmc.ir.errors import AheadOfTimeError, NoTritonError, UnsoundKernelError

FOLDER = "aot"
INDEX = f"{FOLDER}/resources.json"
TABLE = f"{FOLDER}/resources.txt"
# Environment variables by which Triton and what it calls compile otherwise.
TO_COMPILERS = ("TRITON_", "PTXAS_", "NVPTX_", "AMDGCN_", "LLVM_", "MLIR_", "DISABLE_")


@dataclass(frozen=True)
class Job:
    """A kernel in one of its specialisations, for a target."""

    spec: AotSpec
    dtype: str
    target: Target


@dataclass(frozen=True)
class Compiled:
    """A kernel compiled ahead of time.

    key        where Triton looks for it in its cache
    metadata   JSON that Triton reads back beside the binary
    binary     cubin or hsaco
    """

    job: Job
    key: str
    metadata: str
    binary: bytes
    resources: Resources

    @property
    def path(self) -> str:
        """The path of its files in a build, without the ending."""
        folder = self.job.target.name.replace(":", "-")
        return f"{FOLDER}/{folder}/{self.job.spec.kernel}-{self.key[:12]}"

    @property
    def travels(self) -> bool:
        """True if another machine may find it in Triton's cache under its key.

        AMD's key holds the place where Triton is installed and the extent of every
        tensor, so there it says what a kernel takes, and is not used.
        """
        return self.job.target.backend == "cuda"


@dataclass(frozen=True)
class Ahead:
    """The kernels of a build, compiled, and the version of Triton that did it."""

    triton: str
    kernels: tuple[Compiled, ...]


def compile_ahead(
    kernels: str,
    uses: Iterable[OpUse],
    dtypes: Sequence[str],
    targets: Sequence[str],
    own: Collection[str] = (),
    cache: str = "",
) -> Ahead:
    """Compile every kernel of a model, as its launchers launch it.

    Args:
        kernels: the text of kernels.py.
        uses: every op of the model.
        dtypes: "f32", "f16", "bf16": of weights, activations and cache.
        targets: "cuda:90", "hip:gfx942"; see ``targets.LIMITS``.
        own: ops whose kernel is the user's, which is not compiled.
        cache: "int8" or "fp8_e4m3" where the cache is not in the model's dtype.

    Raises:
        GlmcError: for a target or dtype there is none of, where Triton is missing,
            and for a kernel that does not compile, spills, or takes more than a
            target has.
    """
    places, uses = parse_targets(targets), list(uses)
    jobs = [
        Job(spec, dtype, target)
        for target in places
        for dtype in dict.fromkeys(dtypes)
        for spec in aot_specs(kernels, uses, dtype, own, cache, target.name)
    ]
    found = compile_jobs(kernels, jobs, own)
    _refuse([_complaint(c.job, why) for c in found.kernels if (why := _problem(c))])
    return found


def compile_jobs(kernels: str, jobs: Sequence[Job], own: Collection[str] = ()) -> Ahead:
    """Compile some kernels of kernels.py, whatever they take.

    Raises:
        GlmcError: where Triton is missing, and for a kernel that does not compile.
    """
    if find_spec("triton") is None:
        raise NoTritonError(
            "Compiling kernels ahead of time takes Triton, which is not installed here."
            " Install it (pip install triton; there are builds for Linux only), or"
            " compile without --aot: kernels are then compiled on first use."
        )
    triton, answers = _ask(kernels, own, jobs)
    return Ahead(
        triton,
        tuple(_compiled(job, answers.get(at)) for at, job in enumerate(jobs)),
    )


def _ask(
    kernels: str, own: Collection[str], jobs: Sequence[Job]
) -> tuple[str, dict[int, dict[str, Any]]]:
    """Run the worker; return Triton's version and the answers, by the job's number."""
    request = {
        "kernels": kernels,
        "own": sorted(own),
        "jobs": [(asdict(job.spec), job.target.name) for job in jobs],
        "processes": min(len(os.sched_getaffinity(0)), max(len(jobs), 1)),
    }
    with tempfile.TemporaryDirectory(prefix="glmc-aot-") as folder:
        run = subprocess.run(
            [sys.executable, "-m", "glmc.backends.triton.worker"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=folder,
            env=_environment(folder),
        )
    version, *answers = [json.loads(line) for line in run.stdout.splitlines()] or [{}]
    if run.returncode or not version:
        raise AheadOfTimeError(
            "Compiling kernels ahead of time broke off:"
            f" {_last(run.stderr)}. Leave --aot away to compile them on first use."
        )
    return version["triton"], {answer["job"]: answer for answer in answers}


def _environment(cache: str) -> dict[str, str]:
    """Return this process's environment without Triton's variables: keys must be those
    of any machine.

    An empty cache makes sure that what is written was compiled now.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(TO_COMPILERS)}
    # The worker runs elsewhere; modules are found where this process finds them.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return kept | {"TRITON_CACHE_DIR": cache, "PYTHONPATH": path}


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "the compiler said nothing"


def _compiled(job: Job, answer: Mapping[str, Any] | None) -> Compiled:
    if answer is None:
        _refuse([_complaint(job, "its compiler died")])
    elif "error" in answer:
        _refuse([_complaint(job, f"does not compile: {_last(answer['error'])}")])
    assert answer is not None
    return Compiled(
        job=job,
        key=answer["key"],
        metadata=answer["metadata"],
        binary=base64.b64decode(answer["binary"]),
        resources=Resources(**answer["resources"]),
    )


def _problem(compiled: Compiled) -> str | None:
    return problem(compiled.resources, compiled.job.target)


def _complaint(job: Job, reason: str) -> str:
    return f"{job.spec.kernel} ({job.dtype}, {job.target.name}) {reason}"


def _refuse(complaints: Sequence[str]) -> None:
    if complaints:
        raise UnsoundKernelError(
            f"--aot: {'; '.join(complaints)}. Nothing was written. Leave the target"
            " out, name other dtypes with --aot-dtype, compile without --aot, or report"
            " this with the config."
        )


def files(ahead: Ahead) -> dict[str, str | bytes]:
    """Map the paths of a build's binaries, their index and the table of resources to
    their content."""
    found: dict[str, str | bytes] = {}
    for compiled in ahead.kernels:
        if compiled.travels:
            found[f"{compiled.path}.{compiled.job.target.binary}"] = compiled.binary
            found[f"{compiled.path}.json"] = compiled.metadata + "\n"
    index = {"triton": ahead.triton, "kernels": rows(ahead)}
    found[INDEX] = json.dumps(index, indent=2) + "\n"
    found[TABLE] = table(ahead) + "\n"
    return found


def rows(ahead: Ahead) -> list[dict[str, Any]]:
    """Return the resources of each kernel, as plain data."""
    return [_row(compiled) for compiled in ahead.kernels]


def _row(compiled: Compiled) -> dict[str, Any]:
    job, taken = compiled.job, compiled.resources
    place = compiled.path.removeprefix(f"{FOLDER}/") if compiled.travels else None
    return {
        "kernel": job.spec.kernel,
        "target": job.target.name,
        "dtype": job.dtype,
        "constants": dict(job.spec.constants),
        **asdict(taken),
        "occupancy": {
            "warps": occupancy(taken, job.target.limits),
            "of": job.target.limits.warps,
        },
        "key": compiled.key if place else None,
        "binary": f"{place}.{job.target.binary}" if place else None,
        "sha256": sha256(compiled.binary).hexdigest() if place else None,
    }


HEADER = ("kernel", "dtype", "regs", "spills", "shared", "warps", "occupancy", "")


def table(ahead: Ahead) -> str:
    """Lay out the resources for a terminal, one block of lines for each target."""
    blocks = []
    for name in dict.fromkeys(c.job.target.name for c in ahead.kernels):
        shown = [c for c in ahead.kernels if c.job.target.name == name]
        lines = [HEADER, *(_line(compiled, shown) for compiled in shown)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(
                cell.ljust(width) if at in (0, 1, 7) else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        blocks.append("\n".join([f"{name}  (triton {ahead.triton})", *text]))
    return "\n\n".join(blocks)


def _line(compiled: Compiled, among: Sequence[Compiled]) -> tuple[str, ...]:
    taken, limits = compiled.resources, compiled.job.target.limits
    resident = occupancy(taken, limits)
    return (
        f"{compiled.job.spec.kernel}{_variant(compiled.job.spec, among)}",
        compiled.job.dtype,
        str(taken.registers),
        str(taken.spills),
        str(taken.shared),
        str(taken.num_warps),
        f"{resident}/{limits.warps}",
        ", ".join(f"{count} {name}" for name, count in taken.instructions.items()),
    )


def _variant(spec: AotSpec, among: Sequence[Compiled]) -> str:
    """Name the constants by which a specialisation differs from the others of its
    kernel."""
    others = [c.job.spec.constants for c in among if c.job.spec.kernel == spec.kernel]
    names = {name for constants in others for name in constants}
    telling = sorted(n for n in names if len({str(o.get(n, "")) for o in others}) > 1)
    shown = [_constant(name, spec) for name in telling]
    return f"[{', '.join(shown)}]" if shown else ""


def _constant(name: str, spec: AotSpec) -> str:
    """Write a constant; a pointer is one where it is not given."""
    if name in spec.signature:
        return name
    value = spec.constants.get(name)
    return f"no {name}" if value is None else f"{name}={value}"
