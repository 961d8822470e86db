"""Everything that is measured on a GPU, in one call, beside transformers.

    python bench/gpu_builds.py -o build/gpu            where glmc is
    python bench/gpu.py --builds build/gpu --out results.json --budget 600

The second needs torch and triton; what needs transformers is left out without it, with
a line. Each build is measured in a process of its own, since an error of CUDA spoils
all that comes after it there: a section that fails is recorded, and the rest goes on in
a new process.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Seconds that a process may go on after the budget before it is ended.
GRACE = 20.0

Result = dict[str, Any]


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is measured on and with."""
    import torch

    known: dict[str, Any] = {"device": "cpu, interpreted"}
    if options.device == "cuda":
        known["device"] = torch.cuda.get_device_name()
        known["cuda"] = torch.version.cuda or torch.version.hip
    known["dtype"] = options.dtype
    for name in ("torch", "triton", "transformers"):
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            known[name] = "not installed: what needs it is left out"
    commit = options.builds / "commit.txt"
    known["python"] = platform.python_version()
    known["commit"] = commit.read_text().strip() if commit.exists() else "unknown"
    return known


def work(options: argparse.Namespace) -> None:
    """Measures sections of one build, and appends each result to a file of lines."""
    import torch
    from gpu_sections import SECTIONS, TINY, Bench, Lengths
    from gpu_timing import Clock, streaming_read

    ends = time.monotonic() + options.budget
    folder = options.builds / options.work.replace("-", "_").replace(".", "_")
    config = options.builds / f"{options.work}.json"
    dtype = getattr(torch, options.dtype)
    clock = Clock(options.device, quick=options.tiny)
    read = streaming_read(clock, 1 << 20 if options.tiny else 4 << 30)
    _append(options.lines, {"read": read})
    lengths = TINY if options.tiny else Lengths()
    backend = "eager" if options.tiny else "inductor"
    bench = None
    for name in options.sections:
        _append(options.lines, {"begun": name})
        began = time.monotonic()
        rows: list[Any] = []
        error = None
        try:
            if began > ends:
                raise TimeoutError("the budget was spent before its turn")
            if bench is None:
                bench = Bench(
                    folder, config, options.device, dtype, clock, read, lengths, backend
                )
            for found in SECTIONS[name](bench):
                # JSON has no nan.
                row = {k: None if v != v else v for k, v in found.items()}
                rows.append(row)
                print(f"{options.work}, {name}: {row}", flush=True)
        except Exception as problem:  # recorded, whatever it is
            error = f"{type(problem).__name__}: {problem}"[:500]
            print(f"{options.work}, {name} failed: {error}", flush=True)
        result = {"build": options.work, "section": name, "rows": rows}
        seconds = round(time.monotonic() - began, 2)
        _append(options.lines, {**result, "seconds": seconds, "error": error})
        if error and "CUDA error" in error:
            sys.exit(3)  # nothing more can be had from this process


def _append(file: Path, line: Result) -> None:
    with file.open("a") as out:
        out.write(json.dumps(line) + "\n")


def measure(
    build: str, sections: Sequence[str], options: argparse.Namespace, ends: float
) -> Iterator[Result]:
    """The results of a build's sections; a process that dies takes one with it."""
    waiting = list(sections)
    while waiting:
        lines = options.out.with_suffix(f".{build}.lines")
        lines.unlink(missing_ok=True)
        died = _run(build, waiting, options, lines, ends - time.monotonic())
        read = [json.loads(text) for text in _lines(lines)]
        for line in read:
            if "section" in line or "read" in line:
                yield line
        lines.unlink(missing_ok=True)
        done = {line["section"] for line in read if "section" in line}
        begun = [line["begun"] for line in read if "begun" in line]
        waiting = [name for name in waiting if name not in done]
        if not waiting:
            return
        # Whatever had begun, or could not even begin, is not tried again.
        if not done or (begun and begun[-1] == waiting[0]):
            yield _lost(build, waiting.pop(0), died)


def _run(
    build: str,
    sections: Sequence[str],
    options: argparse.Namespace,
    lines: Path,
    budget: float,
) -> str:
    """Runs a process; returns how it ended."""
    command = [sys.executable, str(HERE / "gpu.py"), "--work", build]
    command += ["--builds", str(options.builds), "--device", options.device]
    command += ["--dtype", options.dtype, "--lines", str(lines)]
    command += ["--budget", str(max(budget, 0.0)), "--sections", *sections]
    command += ["--tiny"] if options.tiny else []
    try:
        # Kernels are interpreted where there is no GPU; Triton reads this on import.
        changed = {"TRITON_INTERPRET": "1"} if options.device == "cpu" else {}
        ended = subprocess.run(
            command,
            env=os.environ | changed,
            timeout=max(budget, 0.0) + GRACE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "it was ended when the budget was spent"
    return f"its process ended with {ended.returncode}"


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _lost(build: str, section: str, why: str) -> Result:
    found = {"build": build, "section": section, "rows": [], "seconds": 0.0}
    return {**found, "error": why}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--builds", type=Path, default=Path("build/gpu"))
    parser.add_argument("--only", nargs="*", help="names of builds")
    parser.add_argument("--sections", nargs="*", help="default: all of a build")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--budget", type=float, default=3600.0, help="seconds in all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dtype", help="default: bfloat16, on a CPU float32")
    parser.add_argument("--tiny", action="store_true", help="small lengths, for a CPU")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Triton's interpreter has bfloat16 wrong.
    default = "bfloat16" if options.device == "cuda" else "float32"
    options.dtype = options.dtype or default
    return options


def main() -> None:
    """Measure all builds, and write results and table."""
    options = arguments()
    if options.work:
        work(options)
        return
    from gpu_report import device_text, results_table
    from gpu_sections import of_build

    ends = time.monotonic() + options.budget
    names = sorted(file.stem for file in options.builds.glob("*.json"))
    names = [name for name in names if not options.only or name in options.only]
    if not names:
        sys.exit(f"{options.builds} holds no builds; see bench/gpu_builds.py.")
    results: dict[str, Any] = {"environment": environment(options), "sections": []}
    for name in names:
        for line in measure(name, options.sections or of_build(name), options, ends):
            if "read" in line:
                results["environment"].setdefault("GB/s of a read", line["read"])
            else:
                results["sections"].append(line)
            # After each section: what was measured is not lost with the machine.
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    table = f"{device_text(results)}\n\n{results_table(results)}\n"
    options.out.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
