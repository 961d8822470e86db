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
    assert told in _run(tmp_path, "-q", *options)


@pytest.mark.parametrize(("turn", "began"), [("0", "test_b"), ("2", "test_c")])
def test_workers_begin_with_the_file_whose_turn_it_is(
    turn: str, began: str, tmp_path: Path
) -> None:
    """Without a turn xdist begins with the file of most tests. Files without a wanted
    test take no turn."""
    (tmp_path / "test_a.py").write_text("def test_only():\n    pass\n")
    (tmp_path / "test_b.py").write_text("def test_1():\n    pass\ntest_2 = test_1\n")
    (tmp_path / "test_c.py").write_text("def test_only():\n    pass\n")
    slow = "import pytest\n\ntest_slow = pytest.mark.slow(lambda: None)\n"
    (tmp_path / "test_ab.py").write_text(slow)
    options = ["-n", "1", "--dist", "loadfile", "-m", "not slow", "--turn", turn]
    printed = _run(tmp_path, "-v", *options)
    assert "4 passed" in printed
    passed = [line for line in printed.splitlines() if "PASSED" in line]
    assert f"{began}.py" in passed[0], printed


def _run(folder: Path, *options: str) -> str:
    """Run the tests of a folder with the options of this repository's; what it said."""
    ini = ["-c", str(TESTS.parent / "pyproject.toml"), "--rootdir", str(folder)]
    fixed = ["-p", "no:cacheprovider", *ini, "-p", "conftest"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *fixed, *options, str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr


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
