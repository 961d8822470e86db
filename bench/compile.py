"""Wall time and peak memory of `glmc compile`, each run in a fresh process.

Beside it the CPU time of a compilation alone, in a process that did one before, and the
CPU time of the whole command as a multiple of what importing its libraries takes: both
are measured by turns, since machines differ twofold.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import Row, show

CONFIGS = Path(__file__).parent.parent / "examples" / "configs"
COLUMNS = ("wall s", "worst s", "cpu s", "x libs", "alone s", "peak MB", "runs")
LIBRARIES = "import pydantic, jinja2, yaml"
# As users run it: Python keeps the bytecode of what it imports.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
ALONE = """
import statistics, sys, time
from glmc.compile.driver import Options, compile_files

taken = []
for _ in range(4):
    began = time.process_time()
    compile_files(sys.argv[1], Options())
    taken.append(time.process_time() - began)
print(statistics.median(taken[1:]))
"""


class Refused(Exception):
    """A refusal of glmc's to compile."""


def sentence(said: str) -> str:
    """Return what glmc said, without its own name and the hint below."""
    return said.strip().partition("\n")[0].removeprefix("glmc: ").removeprefix("error")


def once(config: Path, out: Path, aot: str = "") -> tuple[float, float, float]:
    """Seconds on the wall and on the CPU, and peak megabytes, of one compilation.

    Seconds on the CPU are those of all its processes; megabytes are of the largest.
    """
    command = ["-m", "glmc", "compile", str(config), "-o", str(out)]
    command += ["--aot", aot] if aot else []
    said = out.with_suffix(".err")
    status, *taken = spent(command, said)
    if status:
        raise Refused(sentence(said.read_text()))
    seconds, cpu, megabytes = taken
    return seconds, cpu, megabytes


def spent(arguments: list[str], said: Path) -> tuple[int, float, float, float]:
    """Exit status of a Python process, its wall and CPU seconds, peak megabytes.

    ``said`` is the file that its errors go to.
    """
    started = time.perf_counter()
    # Spawned and waited for by hand: getrusage knows only the largest of all children.
    actions = [
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(said), os.O_WRONLY | os.O_CREAT, 0o600),
    ]
    command = [sys.executable, *arguments]
    child = os.posix_spawn(sys.executable, command, ENVIRONMENT, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    return status, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(config: Path, runs: int, aot: str) -> Row:
    """Medians over `runs`, after one that warms the file cache."""
    name = config.parent.name if config.name == "config.json" else config.stem
    with tempfile.TemporaryDirectory() as folder:
        builds = [Path(folder) / f"build{i}" for i in range(runs + 1)]
        try:
            figures, libraries = [], []
            for build in builds:
                figures.append(once(config, build, aot))
                libraries.append(spent(["-c", LIBRARIES], Path(os.devnull))[2])
        except Refused as refusal:
            empty: Row = dict.fromkeys(COLUMNS, "")
            said = str(refusal).removeprefix(f"{config}: ")
            return {"config": name} | empty | {"result": said[:90]}
        result = account(builds[0], config.parent)
    seconds, cpu, megabytes = zip(*figures[1:], strict=True)
    return {
        "config": name,
        "wall s": statistics.median(seconds),
        "worst s": max(seconds),
        "cpu s": statistics.median(cpu),
        "x libs": statistics.median(cpu) / statistics.median(libraries[1:]),
        "alone s": alone(config),
        "peak MB": statistics.median(megabytes),
        "runs": float(runs),
        "result": result,
    }


def alone(config: Path) -> float:
    """CPU seconds of a compilation by a process that has compiled before."""
    command = [sys.executable, "-c", ALONE, str(config)]
    run = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return float(run.stdout)


def account(build: Path, folder: Path) -> str:
    """Return whether every tensor of the weight index beside a config found its
    place."""
    if not any(folder.glob("*.index.json")):
        return "compiled"
    command = [sys.executable, "-m", "glmc", "check", str(build), "--json"]
    command += ["--weights", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        facts = json.loads(run.stdout)
    except ValueError:
        return sentence(run.stderr)[:90]
    waived = sum(map(len, facts["waived"].values()))
    wrong = {k: len(facts[k]) for k in ("missing", "wrong", "unused") if facts[k]}
    return f"{facts['bound']} bound, {waived} waived" + (f", {wrong}" if wrong else "")


def found(places: list[Path]) -> list[Path]:
    """The configs that were named, and those in the folders of a folder."""
    configs: list[Path] = []
    for place in places:
        nested = sorted(place.glob("*/config.json"))
        configs += nested or [place / "config.json" if place.is_dir() else place]
    return configs


def main() -> None:
    """Measure configs, or both examples: a row each, what took longest first; refusals
    are told, and counted at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "configs", nargs="*", type=Path, help="configs, or folders with model folders"
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument(
        "--aot", default="", metavar="TARGETS", help="kernels too: cuda:80,cuda:90"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    both = [CONFIGS / "chatglm3-6b.json", CONFIGS / "llama-3.1-70b.json"]
    configs = found(options.configs) or both
    rows = [measure(config, options.runs, options.aot) for config in configs]
    # By CPU time: what else the machine does moves it less.
    rows.sort(key=lambda row: -float(row["cpu s"] or 0))
    show(rows, options.json)
    bare = [spent(["-c", "pass"], Path(os.devnull))[1:3] for _ in range(options.runs)]
    wall, cpu = map(statistics.median, zip(*bare, strict=True))
    print(f"python -c pass: {wall:.3g} s, {cpu:.3g} s of CPU")
    refused = sum(row["runs"] == "" for row in rows)
    if refused:
        raise SystemExit(f"{refused} of {len(rows)} configs were refused")


if __name__ == "__main__":
    main()
