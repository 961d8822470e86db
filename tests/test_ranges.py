"""Tests that `make test` leaves out are marked, and tried by `make test-slow`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import TESTS
from support.ranges import first, turned

CASES = """
import pytest
from hypothesis import given, strategies as st
from support.ranges import examples, first

tried = []


@examples(40)
@given(st.integers())
def test_property(number):
    tried.append(number)


@pytest.mark.parametrize(("a", "b"), first(1, [(1, 2), (3, 4), (5, 6)]))
def test_case(a, b):
    assert a + 1 == b


def test_tried():
    assert len(tried) == {wanted}


test_tried = pytest.mark.slow(test_tried) if {wanted} == 40 else test_tried
"""


@pytest.mark.parametrize(
    ("options", "wanted", "told"),
    first(
        1,
        [
            (["-m", "not slow"], 5, "3 passed, 2 deselected"),
            (["-m", "slow or ranges", "--hypothesis-profile", "whole"], 40, "4 passed"),
            (["-m", "not slow", "--minutes", "0"], 5, "3 skipped, 2 deselected"),
        ],
    ),
)
def test_every_run_tries_some_and_slow_runs_the_rest(
    options: list[str], wanted: int, told: str, tmp_path: Path
) -> None:
    (tmp_path / "test_cases.py").write_text(CASES.replace("{wanted}", str(wanted)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ini = ["-c", str(TESTS.parent / "pyproject.toml"), "--rootdir", str(tmp_path)]
    run = subprocess.run(
        [*command, *ini, "-p", "conftest", *options, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told in run.stdout, run.stdout + run.stderr


def test_each_turn_begins_with_another_file() -> None:
    files = [Path(name) for name in ("b", "a", "b", "c")]
    orders = [
        sorted(set(files), key=turned(files, turn).__getitem__) for turn in range(4)
    ]
    assert ["".join(map(str, order)) for order in orders] == [
        "abc",
        "bca",
        "cab",
        "abc",
    ]
