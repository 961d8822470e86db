"""Count the mistakes that the tests notice: mutants of our code, seeded, one at a time.

A mutant is a copy of the tree with one operator, number, comparison, branch or keyword
changed by cosmic-ray (``pip install cosmic-ray``; any Python that has it may run this
script, ``--python`` is the one that runs the tests). It is killed when a test fails,
when it cannot be imported, or when it runs out of time. The tests nearest to the file
run first, then the others that ``make test`` runs but for those of kernels.

Prints a line for each mutant and the diffs of the survivors: some of these are no
mistakes (an error's wording, a bound that nothing reaches), which only a person can
say. ``--tests`` runs those alone, and ``--slow`` what ``make test-slow`` runs as well:
twice the same seed, with and without, tells what a quick run misses.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).parent.parent
ROOMS = ("ir", "frontends", "specs", "backends", "codegen_templates")
#: What is mutated where no path is given.
PATHS = ("ir/passes", "ir/lower", "ir/ops", "frontends", "backends/runtime")
#: Tests that are nearest to a file whose path begins so; the first that fits counts.
NEAR = {
    "ir/lower": ("tests/ir", "tests/specs", "tests/face/test_golden_builds.py"),
    "ir/": ("tests/ir", "tests/face/test_golden_builds.py", "tests/specs"),
    "frontends/": ("tests/frontends", "tests/specs", "tests/authoring/test_specs.py"),
    "backends/runtime/tokenizer": ("tests/backends/runtime/tokenizer",),
    "backends/runtime": ("tests/backends/runtime", "tests/test_golden.py"),
}
#: What runs after them.
REST = (
    "tests/test_golden.py",
    "tests/backends/torch",
    "tests/backends/runtime",
    "tests/face",
    "tests/test_quantised.py",
    "tests/test_hub_formats.py",
    "tests/test_mistakes.py",
    "tests/test_parity.py",
)
#: Operators that need to be told what to put in.
TOLD = ("core/VariableReplacer", "core/VariableInserter")
MEMORY = 6 << 30
"""Bytes that the tests of a mutant may have."""


@dataclass(frozen=True)
class Mutant:
    """One change: which occurrence of an operator of cosmic-ray in which file."""

    path: str
    operator: str
    occurrence: int
    line: int


@dataclass(frozen=True)
class Verdict:
    """The end of a mutant: ``killed`` by which test or limit, or ``survived``."""

    mutant: Mutant
    outcome: str
    by: str
    seconds: float
    diff: str


def candidates(paths: Iterable[str]) -> Iterator[Mutant]:
    """Every mutant of the Python files below some paths."""
    for path in paths:
        found = [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py")
        for file in sorted(found):
            yield from _of_file(file)


def _of_file(file: Path) -> Iterator[Mutant]:
    import cosmic_ray.plugins as plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    tree = get_ast(file.read_text("utf-8"))
    name = str(file.relative_to(ROOT))
    for operator in sorted(set(plugins.operator_names()) - set(TOLD)):
        change = plugins.get_operator(operator)()
        at = 0
        for node in ast_nodes(tree):
            for (line, _), _ in change.mutation_positions(node):
                yield Mutant(name, operator, at, line)
                at += 1


def mutated(mutant: Mutant) -> str | None:
    """The text of the mutant's file; None where only annotations or texts differ."""
    import cosmic_ray.plugins as plugins
    from cosmic_ray.mutating import mutate_code

    before = (ROOT / mutant.path).read_text("utf-8")
    operator = plugins.get_operator(mutant.operator)()
    after = mutate_code(before, operator, mutant.occurrence)
    return None if after is None or _code(after) == _code(before) else str(after)


def _code(text: str) -> str:
    """A file's code without annotations of arguments and results."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text
    for node in ast.walk(tree):
        match node:
            case ast.arg():
                node.annotation = None
            case ast.FunctionDef():
                node.returns = None
            case ast.AnnAssign():
                node.annotation = ast.Constant(None)
    return ast.dump(tree)


def sample(paths: Iterable[str], count: int, seed: int) -> list[tuple[Mutant, str]]:
    """``count`` mutants with their texts: a line is drawn first, and then one of the
    mutants of that line, so that lines with many operators do not outweigh others."""
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for mutant in candidates(paths):
        lines.setdefault((mutant.path, mutant.line), []).append(mutant)
    draw = random.Random(seed)
    order = sorted(lines)
    draw.shuffle(order)
    chosen: list[tuple[Mutant, str]] = []
    for where in order:
        mutant = draw.choice(lines[where])
        text = mutated(mutant)
        if text is not None:
            chosen.append((mutant, text))
        if len(chosen) == count:
            break
    return chosen


def near(path: str) -> tuple[str, ...]:
    """The tests that are nearest to a file."""
    return next((tests for start, tests in NEAR.items() if path.startswith(start)), ())


@dataclass(frozen=True)
class Runs:
    """The way tests are run: by which Python, which of them, for how long."""

    python: str
    limit_s: float
    only: tuple[str, ...] = ()
    slow: bool = False

    def command(self, tests: Sequence[str]) -> list[str]:
        """The command that stops at the first test that fails."""
        chosen = ("--hypothesis-profile", "whole") if self.slow else ("-m", "not slow")
        options = ("-x", "-q", *chosen, "-p", "no:cacheprovider", "--tb=no")
        return [self.python, "-m", "pytest", *options, *tests]


class Copy:
    """A copy of the tree, in which one mutant at a time is tested."""

    def __init__(self, folder: Path, runs: Runs) -> None:
        self.folder, self.runs = folder, runs
        listed = _git("ls-files", "-z").split("\0")
        for name in filter(None, listed):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target, follow_symlinks=False)
        # Imports of glmc.ROOM are to find the copy, not what is installed.
        for room in ROOMS:
            (folder / "glmc" / room).symlink_to(folder / room)

    def judge(self, mutant: Mutant, text: str) -> Verdict:
        """Run the tests on a mutant until one fails."""
        file = self.folder / mutant.path
        before = file.read_text("utf-8")
        began, limit_s = time.perf_counter(), self.runs.limit_s
        file.write_text(text, "utf-8")
        try:
            by = self.fails(self.runs.only or near(mutant.path), limit_s)
            by = by or self.fails(() if self.runs.only else REST, 4 * limit_s)
        finally:
            file.write_text(before, "utf-8")
        lines = before.splitlines(), text.splitlines()
        changed = "\n".join(difflib.unified_diff(*lines, mutant.path, "", "", "", 1))
        took = time.perf_counter() - began
        return Verdict(mutant, "killed" if by else "survived", by, took, changed)

    def fails(self, tests: Sequence[str], limit_s: float) -> str:
        """The first of the tests that fails, or what else ended them; "" if none."""
        there = [test for test in tests if (self.folder / test).exists()]
        if not there:  # without a path pytest would run all
            return ""
        env = {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        try:
            run = subprocess.run(
                self.runs.command(there),
                cwd=self.folder,
                env=env,
                capture_output=True,
                text=True,
                timeout=limit_s,
                preexec_fn=_limited,
            )
        except subprocess.TimeoutExpired:
            return f"time: {limit_s:.0f} s"
        if run.returncode == 0:
            return ""
        told = [line for line in run.stdout.splitlines() if line.startswith("FAILED")]
        return told[0].split(" ")[1] if told else f"exit code {run.returncode}"


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def judged(
    chosen: Sequence[tuple[Mutant, str]], runs: Runs, workers: int
) -> Iterator[Verdict]:
    """The verdicts, each as it is there."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        free: Queue[Copy] = Queue()
        for at in range(workers):
            free.put(Copy(Path(folder, str(at)), runs))
        if failing := _sound(free, runs):
            sys.exit(f"{failing} fails without a mutant; mend that first.")

        def one(pair: tuple[Mutant, str]) -> Verdict:
            copy = free.get()
            try:
                return copy.judge(*pair)
            finally:
                free.put(copy)

        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(one, chosen)


def _sound(free: Queue[Copy], runs: Runs) -> str:
    """The first test that fails as the code stands."""
    copy = free.get()
    try:
        every = dict.fromkeys(
            test for tests in (*NEAR.values(), REST) for test in tests
        )
        return copy.fails(runs.only or list(every), 10 * runs.limit_s)
    finally:
        free.put(copy)


def main() -> None:
    """Print a line for each mutant, the survivors, and the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", default=PATHS, help=f"default: {PATHS}")
    parser.add_argument("--sample", type=int, default=300, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--limit",
        type=float,
        default=120,
        metavar="S",
        help="seconds for the nearest tests; the rest have four times as many",
    )
    parser.add_argument("--python", default=sys.executable, help="runs the tests")
    parser.add_argument("--tests", nargs="+", default=(), help="these alone")
    parser.add_argument("--slow", action="store_true", help="the slow ones, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the verdicts")
    given = parser.parse_args()
    chosen = sample(given.paths, given.sample, given.seed)
    python = str(Path(given.python).absolute())
    runs = Runs(python, given.limit, tuple(given.tests), given.slow)
    verdicts = []
    for verdict in judged(chosen, runs, given.workers):
        verdicts.append(verdict)
        mutant = verdict.mutant
        print(
            f"{verdict.outcome:8} {verdict.seconds:6.1f} s  {mutant.path}:{mutant.line}"
            f"  {verdict.by}",
            flush=True,
        )
        if given.json:
            given.json.write_text(json.dumps([asdict(v) for v in verdicts], indent=1))
    survivors = [verdict for verdict in verdicts if verdict.outcome == "survived"]
    for verdict in survivors:
        print(f"\n{verdict.diff}")
    killed = len(verdicts) - len(survivors)
    print(f"\n{killed} of {len(verdicts)} killed ({killed / len(verdicts):.0%})")


if __name__ == "__main__":
    main()
