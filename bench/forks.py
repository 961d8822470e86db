"""Run chosen tests on a mutant in a fork of a pytest that has collected all of them.

Run from the tree to be mutated, with the tests to collect as arguments. Reads a line of
JSON for each mutant and answers with one. Functions that a mutant changes are changed
in the fork, where their module is imported already; what a test imports or compiles
later it finds on disk. A mutant of what importing runs (``fresh``) gets a process that
has imported torch and transformers and nothing of ours, and so does any mutant where it
is asked for: what importing calls is changed nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NoReturn

import pytest

Job = Mapping[str, Any]
Functions = dict[tuple[str, str], list[FunctionType]]

#: What most tests import and no mutant changes.
PRELOADED = ("hypothesis", "torch", "transformers", "yaml", "jinja2", "pydantic")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--tb=no", "--capture=no")
MEMORY = 8 << 30
"""Bytes of address space that a run may have."""
IDLE_S = 90
"""Seconds without any use of a CPU after which a run hangs. What others take of the
machine makes a run slower, and ends none."""


class Collected:
    """A plugin: collects as usual, and then runs what it is asked to, in forks."""

    def __init__(self, requests: int, answers: int) -> None:
        self.requests, self.answers = os.fdopen(requests), os.fdopen(answers, "w")
        self.functions: Functions = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.unfreeze()
        for thing in gc.get_objects():
            if type(thing) is FunctionType:  # asking what it says of itself may warn
                key = (os.path.realpath(thing.__code__.co_filename), thing.__qualname__)
                self.functions.setdefault(key, []).append(thing)
            elif type(thing) is functools._lru_cache_wrapper and _is_ours(thing):
                thing.cache_clear()  # what collecting has filled
        gc.freeze()
        items = {item.nodeid: item for item in session.items}
        for line in self.requests:
            job = json.loads(line)
            tests = [items[name] for name in job["tests"] if name in items]
            run = functools.partial(_run_items, session, tests, job, self.functions)
            self.answers.write(json.dumps(in_a_fork(run, job["limit_s"])) + "\n")
            self.answers.flush()
        return True


def _is_ours(thing: object) -> bool:
    return (thing.__module__ or "").startswith("glmc")


def _run_items(
    session: pytest.Session, tests: list[pytest.Item], job: Job, functions: Functions
) -> str:
    """Run tests until one fails, and return its name."""
    _change(functions, job)
    factory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(dir="..") as base:
        factory._basetemp = Path(base).resolve()
        Path(job["tiny"]).mkdir(parents=True, exist_ok=True)
        (factory._basetemp / "tiny").symlink_to(job["tiny"])
        for test, following in zip(tests, [*tests[1:], None], strict=True):
            session.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
            if session.testsfailed:
                return test.nodeid
    return ""


def _change(functions: Functions, job: Job) -> None:
    """Give functions that are imported already the code of the mutant."""
    path = os.path.realpath(job["path"])
    codes = [dict(_functions(compile(job[text], path, "exec"))) for text in _TEXTS]
    for name, code in codes[1].items():
        if code != codes[0].get(name):
            for function in functions.get((path, name), ()):
                function.__code__ = code


_TEXTS = ("before", "after")


def _functions(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    """Yield the outermost functions of a module and its classes, by qualified names."""
    for part in code.co_consts:
        if isinstance(part, CodeType) and part.co_flags & CO_OPTIMIZED:
            yield part.co_qualname, part
        elif isinstance(part, CodeType):
            yield from _functions(part)


def is_fresh(before: str, after: str) -> bool:
    """Tell whether a mutant changes what importing runs."""
    shapes = [_shape(compile(text, "", "exec")) for text in (before, after)]
    return shapes[0] != shapes[1]


def _shape(code: CodeType) -> object:
    consts = [
        (part.co_qualname, part.co_flags & CO_OPTIMIZED or _shape(part))
        if isinstance(part, CodeType)
        else (type(part), repr(part))
        for part in code.co_consts
    ]
    return code.co_code, code.co_names, consts


def run_fresh(job: Job) -> str:
    """Run pytest on a mutant that lies on disk, and return the test that failed."""
    base = f"--basetemp={os.getcwd()}.tmp"
    told = pytest.main([*OPTIONS, base, *job["tests"]], plugins=[named := _Named()])
    return named.failed or (f"exit code {told:d}" if told else "")


class _Named:
    failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid


def in_a_fork(run: Callable[[], str], limit_s: float) -> str:
    """Return what a function returns in a fork, or what ended it."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _be_the_fork(run, limit_s, writer)
    os.close(writer)
    status = _end_of(child, limit_s)
    with os.fdopen(reader) as said:
        answer = said.read()
    code = None if status is None else os.waitstatus_to_exitcode(status)
    if code in (None, -signal.SIGKILL, -signal.SIGXCPU):
        return f"time: {limit_s:.0f} s"
    return answer if code == 0 else f"exit code {code}"


def _be_the_fork(run: Callable[[], str], limit_s: float, answer: int) -> NoReturn:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s) + 1, int(limit_s) + 3))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    code = 3
    try:
        os.write(answer, run().encode())
        code = 0
    finally:
        os._exit(code)


def _end_of(child: int, limit_s: float) -> int | None:
    """The exit status; None where the CPU time was up, or nothing used any for long.
    Nothing that the child started is left."""
    used, since, status = 0.0, time.monotonic(), None
    while used <= limit_s and time.monotonic() < since + IDLE_S:
        found, code = os.waitpid(child, os.WNOHANG)
        if found:
            status = code
            break
        now = _cpu_s(child)
        if now > used:
            used, since = now, time.monotonic()
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status


def _cpu_s(group: int) -> float:
    """CPU seconds of a group's processes, and of those that these have waited for."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = process.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Answer each line of standard input."""
    for name in PRELOADED:
        __import__(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    theirs, ours = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(theirs[1])
        plugin = Collected(theirs[0], ours[1])
        os._exit(pytest.main([*OPTIONS, "-m", "not slow", *sys.argv[1:]], [plugin]))
    os.close(theirs[0])
    os.close(ours[1])
    asked, told = os.fdopen(theirs[1], "w"), os.fdopen(ours[0])
    for line in sys.stdin:
        job = json.loads(line)
        if job["fresh"] or is_fresh(job["before"], job["after"]):
            answer = json.dumps(
                in_a_fork(functools.partial(run_fresh, job), job["limit_s"])
            )
        else:
            asked.write(line)
            asked.flush()
            answer = told.readline().strip()
        answers.write(answer + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
