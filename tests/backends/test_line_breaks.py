"""Lines are broken where ruff would break them."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

from glmc.backends.layout import assignment

LONG, SHARED = "DenseSlidingLayer", "SharedFullLayer"
PERIOD = f"(({LONG},) * 4 + ({SHARED},))"
SUMS = [
    [f"({LONG},) * 28"],
    [f"{PERIOD} * 3", f"(({SHARED},) * 4 + (Full,)) * 4"],
    [f"({LONG},)", f"{PERIOD} * 11", f"({SHARED},) * 3"],
    [f"({LONG},) * 4", f"{PERIOD} * 11", f"({SHARED},) * 3", "(Other,)"],
    [f"{PERIOD} * 3", f"({LONG}OfAnother,) * 34"],
    [f"(({LONG}{LONG}{SHARED},) * 4 + ({SHARED},) * 34) * 3"],
    [f"({LONG}{LONG}{LONG}{SHARED}{SHARED},) * 4", f"{PERIOD} * 4"],
    [f"({LONG}, {SHARED}, Full) * 14"],
    [f"({LONG}, {SHARED}, Full, Other) * 4", "(Full,)"],
    [f"({SHARED},)", f"({LONG}, {SHARED}, Full, Other) * 4"],
    [f"(({LONG},) * 4 + ({SHARED}, Full)) * 4", f"({LONG},) * 3", "(Full, Other)"],
    [f"{PERIOD} * 3", f"(({SHARED}{LONG},) * 4 + ({SHARED}{SHARED},) * 4 + (F,)) * 4"],
]


@pytest.mark.parametrize("terms", SUMS)
@pytest.mark.parametrize("indent", [0, 4])
def test_a_sum_is_broken_as_ruff_breaks_it(terms: Sequence[str], indent: int) -> None:
    line = " " * indent + assignment("LAYERS", terms, indent) + "\n"
    text = "class A:\n" * (indent > 0) + line
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "-"]
    done = subprocess.run(command, input=text, text=True, capture_output=True)
    assert done.stdout == text, done.stderr
