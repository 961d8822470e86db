"""Wall time and peak memory of `glmc compile`, each run in a fresh process."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from report import Row, show

CONFIGS = Path(__file__).parent.parent / "examples" / "configs"


def once(config: Path, out: Path) -> tuple[float, float, float]:
    """Seconds on the wall and on the CPU, and peak megabytes, of one compilation."""
    command = [sys.executable, "-m", "glmc", "compile", str(config), "-o", str(out)]
    started = time.perf_counter()
    # Spawned and waited for by hand: getrusage knows only the largest of all children.
    actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    child = os.posix_spawn(
        sys.executable, command, dict(os.environ), file_actions=actions
    )
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"glmc compile {config} failed; see its message above")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(config: Path, runs: int) -> Row:
    """Medians over `runs`, after one that warms the file cache."""
    with tempfile.TemporaryDirectory() as folder:
        figures = [once(config, Path(folder) / f"build{i}") for i in range(runs + 1)]
    seconds, cpu, megabytes = zip(*figures[1:], strict=True)
    return {
        "config": config.stem,
        "wall s": statistics.median(seconds),
        "worst s": max(seconds),
        "cpu s": statistics.median(cpu),
        "peak MB": statistics.median(megabytes),
        "runs": float(runs),
    }


def main() -> None:
    """Measure the configs that were named, or both examples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    both = [CONFIGS / "chatglm3-6b.json", CONFIGS / "llama-3.1-70b.json"]
    show([measure(c, options.runs) for c in options.configs or both], options.json)


if __name__ == "__main__":
    main()
