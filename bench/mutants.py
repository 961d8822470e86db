"""Count the mistakes that the tests notice: mutants of our code, seeded, one at a time.

A mutant is a copy of the tree with one operator, number, comparison, branch or keyword
changed by cosmic-ray (``pip install cosmic-ray coverage pytest``; any Python with these
may run this script, ``--python`` runs the tests). It is killed when a test
fails, when it cannot be imported, or when it runs out of time.

With ``--reach`` (see reach.py) only tests that reach the mutated line run, the quickest
case of each first, up to ``--budget`` seconds; without, the tests nearest to the file
and then most others. Prints a line for each mutant and the diffs of the survivors. Some
of these are no mistakes (a bound that nothing reaches): ``mutants.json`` beside this
file says which, and why, and they count neither as killed nor as survived. ``--json``
keeps the verdicts, and a second run with the same file goes on where it stopped.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from reach import ROOT, Reached

ROOMS = ("ir", "frontends", "specs", "backends", "codegen_templates")
#: What is mutated where no path is given.
PATHS = ("ir/passes", "ir/lower", "ir/ops", "frontends", "backends/runtime")
#: The first tests of a mutant: from how many files, of how many seconds in all.
FILES, FIRST_S = 6, 6
LIMIT_S = 10
"""CPU seconds that any run may take, beside what its tests took."""
#: Operators that need to be told what to put in.
TOLD = ("core/VariableReplacer", "core/VariableInserter")
EQUIVALENT = Path(__file__).with_name("mutants.json")
"""Mutants that are no mistakes, each with the reason."""


@dataclass(frozen=True)
class Mutant:
    """One change: which occurrence of an operator of cosmic-ray in which file."""

    path: str
    operator: str
    occurrence: int
    line: int


@dataclass(frozen=True)
class Verdict:
    """The end of a mutant: ``killed`` by which test or limit, or ``survived`` so many
    tests."""

    mutant: Mutant
    outcome: str
    by: str
    tests: int
    seconds: float
    diff: str


@dataclass(frozen=True)
class Stage:
    """Tests that run together, and the CPU seconds that they may take."""

    tests: tuple[str, ...]
    limit_s: float


def candidates(paths: Iterable[str]) -> Iterator[Mutant]:
    """Every mutant of the Python files below some paths."""
    for path in paths:
        found = [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py")
        for file in sorted(found):
            yield from _of_file(file)


def _of_file(file: Path) -> Iterator[Mutant]:
    import cosmic_ray.plugins as plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes = list(ast_nodes(get_ast(file.read_text("utf-8"))))
    name = str(file.relative_to(ROOT))
    for operator in sorted(set(plugins.operator_names()) - set(TOLD)):
        change = plugins.get_operator(operator)()
        at = 0
        for node in nodes:
            for (line, _), _ in change.mutation_positions(node):
                yield Mutant(name, operator, at, line)
                at += 1


def mutated(mutant: Mutant) -> str | None:
    """The text of the mutant's file; None where that is no Python, or only annotations
    differ."""
    import cosmic_ray.plugins as plugins
    from cosmic_ray.mutating import mutate_code

    before = (ROOT / mutant.path).read_text("utf-8")
    operator = plugins.get_operator(mutant.operator)()
    after = mutate_code(before, operator, mutant.occurrence)
    if after is None or not _compiles(after) or _code(after) == _code(before):
        return None
    return str(after)


def _compiles(text: str) -> bool:
    try:
        compile(text, "", "exec")
    except SyntaxError:
        return False
    return True


def _code(text: str) -> str:
    """A file's code without annotations of arguments and results."""
    tree = ast.parse(text)
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


class Copy:
    """A copy of the tree, in which one mutant at a time is tested."""

    def __init__(
        self, folder: Path, python: str, tiny: Path, tests: Sequence[str]
    ) -> None:
        self.folder, self.tiny, self.turn = folder, tiny, time.time()
        self.fresh = False
        for name in filter(None, _git("ls-files", "-z").split("\0")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target, follow_symlinks=False)
        # Imports of glmc.ROOM are to find the copy, not what is installed.
        for room in ROOMS:
            (folder / "glmc" / room).symlink_to(folder / room)
        here = str(Path(__file__).parent / "forks.py")
        env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        self.forks = subprocess.Popen(
            [python, here, *tests],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def judge(self, mutant: Mutant, text: str, stages: Sequence[Stage]) -> Verdict:
        """Run the tests on a mutant until one fails."""
        before = (ROOT / mutant.path).read_text("utf-8")
        began, count, by = time.perf_counter(), 0, ""
        self.write(mutant.path, text)
        try:
            for stage in stages:
                count += len(stage.tests)
                by = self.fails(stage, mutant.path, before, text)
                if by:
                    break
        finally:
            self.write(mutant.path, before)
        lines = before.splitlines(), text.splitlines()
        changed = "\n".join(
            difflib.unified_diff(*lines, mutant.path, "", "", "", 1, "")
        )
        took = time.perf_counter() - began
        outcome = "killed" if by else "survived"
        return Verdict(mutant, outcome, by, count, took, changed)

    def write(self, path: str, text: str) -> None:
        """Write a file with a time of its own, so that no stale bytecode is taken."""
        self.turn += 2
        (self.folder / path).write_text(text, "utf-8")
        os.utime(self.folder / path, (self.turn, self.turn))

    def fails(self, stage: Stage, path: str, before: str, after: str) -> str:
        """The first of the tests that fails, or what else ended them; "" if none."""
        job = asdict(stage) | {"path": path, "before": before, "after": after}
        job["fresh"] = self.fresh
        assert self.forks.stdin
        assert self.forks.stdout
        self.forks.stdin.write(json.dumps(job | {"tiny": str(self.tiny)}) + "\n")
        self.forks.stdin.flush()
        return str(json.loads(self.forks.stdout.readline()))


def stages(tests: Sequence[str], reached: Reached, budget_s: float) -> list[Stage]:
    """A few quick tests of few files, and then others within the budget."""
    first: list[str] = []
    spent, files = 0.0, set[str]()
    for test in tests:
        spent += reached.seconds.get(test, 1)
        if len(files | {test.split("::")[0]}) <= FILES and spent <= FIRST_S:
            first.append(test)
            files.add(test.split("::")[0])
        if spent > FIRST_S:
            break
    rest, left = [], budget_s - _sum(first, reached)
    for test in tests:
        takes = reached.seconds.get(test, 1)
        if test not in first and takes <= left:  # quick ones beside a slow one
            rest.append(test)
            left -= takes
    chosen = [sorted(part) for part in (first, rest) if part]
    return [Stage(tuple(part), LIMIT_S + _sum(part, reached)) for part in chosen]


def _sum(tests: Iterable[str], reached: Reached) -> float:
    return sum(reached.seconds.get(test, 1) for test in tests)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def equivalent(mutant: Mutant, diff: str) -> str:
    """The reason why a mutant is no mistake; "" where none is written down."""
    changed = [line for line in diff.splitlines()[3:] if line.startswith(("+", "-"))]
    for entry in json.loads(EQUIVALENT.read_text()):
        if entry["path"] == mutant.path and entry["diff"] == changed:
            return str(entry["why"])
    return ""


def told(verdicts: Sequence[Verdict]) -> None:
    """Print the survivors and the score."""
    survivors = [one for one in verdicts if one.outcome == "survived"]
    same = [one for one in survivors if equivalent(one.mutant, one.diff)]
    for verdict in survivors:
        why = equivalent(verdict.mutant, verdict.diff)
        print(f"\n{verdict.diff}\n{why and f'No mistake: {why}'}")
    killed = len(verdicts) - len(survivors)
    counted = len(verdicts) - len(same)
    print(
        f"\n{killed} of {counted} killed ({killed / max(counted, 1):.1%}); "
        f"{len(same)} of {len(verdicts)} are no mistakes"
    )


def judged(given: argparse.Namespace) -> Iterator[Verdict]:
    """The verdicts, those of an earlier run first, each written down as it is there."""
    known = _known(given.json, given.again)
    chosen = sample(given.paths, given.sample, given.seed)
    reached = Reached(given.reach)
    kept: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        python = str(Path(given.python).absolute())
        tiny = (given.tiny or Path(folder, "tiny")).absolute()
        files = sorted({test.split("::")[0] for test in reached.seconds})
        copy = Copy(Path(folder, "tree"), python, tiny, files)
        copy.fresh = given.again
        for mutant, text in chosen:
            verdict = known.get(mutant)
            if verdict is None:
                tests = reached.of(mutant.path, mutant.line)
                verdict = copy.judge(mutant, text, stages(tests, reached, given.budget))
                print(_line(verdict), flush=True)
            kept.append(verdict)
            if given.json:
                given.json.write_text(json.dumps([asdict(v) for v in kept], indent=1))
            yield verdict
        copy.forks.terminate()


def _line(verdict: Verdict) -> str:
    where = f"{verdict.mutant.path}:{verdict.mutant.line}"
    ran = f"{verdict.seconds:6.1f} s {verdict.tests:4} tests"
    return f"{verdict.outcome:8} {ran}  {where}  {verdict.by}"


def _known(file: Path | None, again: bool) -> dict[Mutant, Verdict]:
    """The verdicts of an earlier run; with ``again`` those of killed mutants."""
    if not file or not file.exists():
        return {}
    found = [
        Verdict(**{**one, "mutant": Mutant(**one["mutant"])})
        for one in json.loads(file.read_text())
    ]
    return {v.mutant: v for v in found if not again or v.outcome == "killed"}


def main() -> None:
    """Print a line for each mutant, the survivors, and the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", default=PATHS, help=f"default: {PATHS}")
    parser.add_argument("--reach", nargs="+", type=Path, required=True, metavar="FILE")
    parser.add_argument("--sample", type=int, default=300, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=60, metavar="S")
    parser.add_argument("--python", default=sys.executable, help="runs the tests")
    parser.add_argument("--tiny", type=Path, help="checkpoints of an earlier run")
    parser.add_argument(
        "--again",
        action="store_true",
        help="judge survivors again, in processes of their own",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="the verdicts")
    given = parser.parse_args()
    verdicts = list(judged(given))
    told(verdicts)


if __name__ == "__main__":
    main()
