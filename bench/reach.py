"""Record which tests reach which line of our code: a plugin of pytest, and its reader.

``python -m pytest -p reach`` with this folder and coverage.py on ``PYTHONPATH``, and
``REACH=FILE`` for what it writes: coverage's database, with a context for each test,
and ``FILE.json`` with each test's seconds. A build's copy of a runtime file counts as
the file it is a copy of. What tests have made for each other (builds of this run) is
forgotten between two files of tests, so that each file reaches on its own what it uses.
Lines that a command runs in a process of its own are not seen.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = [f"**/{room}/**/*.py" for room in ("ir", "frontends", "backends")]
FOREIGN = ["**/site-packages/**"]


class Recorder:
    """Measures lines with coverage.py, and tells it which test is running."""

    def __init__(self, file: Path, base: Path) -> None:
        import coverage

        self.file, self.base, self.last = file, base, ""
        self.seconds: dict[str, float] = {}
        seen = [*OURS, f"{base}/**/*.py"]
        self.measured = coverage.Coverage(
            str(file), include=seen, omit=FOREIGN, config_file=False
        )
        self.measured.start()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        module = item.nodeid.split("::")[0]
        if module != self.last:
            shutil.rmtree(self.base / "builds", ignore_errors=True)
            self.last = module
            self.save()
        self.measured.switch_context(item.nodeid)
        began = time.perf_counter()
        yield
        self.seconds[item.nodeid] = time.perf_counter() - began
        self.measured.switch_context("")

    def pytest_sessionfinish(self) -> None:
        self.measured.stop()
        self.save()

    def save(self) -> None:
        self.measured.save()
        self.file.with_suffix(".json").write_text(json.dumps(self.seconds))


def pytest_sessionstart(session: pytest.Session) -> None:
    factory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    recorder = Recorder(Path(os.environ["REACH"]), factory.getbasetemp())
    session.config.pluginmanager.register(recorder)


class Reached:
    """Tests of each line, and how long each takes, as they were recorded."""

    def __init__(self, files: Sequence[Path]) -> None:
        import coverage

        self.seconds: dict[str, float] = {}
        self.tests: dict[str, dict[int, set[str]]] = {}
        for file in files:
            self.seconds |= json.loads(file.with_suffix(".json").read_text())
            data = coverage.CoverageData(str(file))
            data.read()
            for measured in data.measured_files():
                if path := ours(measured):
                    lines = self.tests.setdefault(path, {})
                    for line, tests in data.contexts_by_lineno(measured).items():
                        lines.setdefault(line, set()).update(filter(None, tests))

    def of(self, path: str, line: int) -> list[str]:
        """The tests that reach a line, or the whole file where importing does.

        Of each test function first the case that reaches most of what follows the line,
        then the others; among these the quickest first.
        """
        lines, tests = self.tests.get(path, {}), set[str]()
        if _in_function(path, line):  # a statement may go over several lines
            near = (at for at in range(line, line - 9, -1) if at in lines)
            tests = lines.get(next(near, 0), tests)
        tests = tests or set().union(*lines.values())
        after = [lines.get(line + at, set()) for at in range(1, 7)]

        def order(test: str) -> tuple[float, ...]:
            return -sum(test in one for one in after), self.seconds.get(test, 1)

        turns: dict[str, int] = {}
        found = []
        for test in sorted(tests, key=lambda test: (order(test), test)):
            function = test.partition("[")[0]
            turns[function] = turns.get(function, -1) + 1
            found.append((turns[function], order(test), test))
        return [test for _, _, test in sorted(found)]


def _in_function(path: str, line: int) -> bool:
    """Tell whether a line is run by calls and not by importing."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    bodies = (node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return any(b[0].lineno <= line <= (b[-1].end_lineno or 0) for b in bodies)


def ours(file: str) -> str:
    """The path, from the root, of a file or of what it is a copy of; "" if neither."""
    parts = Path(file).parts
    for start in ("ir", "frontends", "backends"):
        if start in parts:
            tail = parts[len(parts) - 1 - parts[::-1].index(start) :]
            if Path(ROOT, *tail).is_file():
                return "/".join(tail)
    copied = ("/".join(("backends/runtime", *parts[-depth:])) for depth in (2, 1))
    return next((path for path in copied if (ROOT / path).is_file()), "")
