"""Controls: a spec with one mistake in it is caught by the parity tests.

What is wrong with each is in ``tests/support/mistakes.py`` and, of mixers, in
``tests/support/mixers.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from glmc import compile_model
from support import builds, mixers, reference, streams
from support.mistakes import MISTAKES
from support.parity import SCENARIOS, TOLERANCE
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

# Of each three neighbours one in every run: most are of one family.
EVERY = [*MISTAKES, *mixers.MISTAKES, *streams.MISTAKES]
QUICK = EVERY[::3]
CASES = [*QUICK, *first(0, [case for case in EVERY if case not in QUICK])]


@pytest.mark.parametrize(("name", "mistake", "scenario"), CASES)
def test_a_wrong_spec_shows(
    name: str,
    mistake: str,
    scenario: str,
    tiny: Callable[[Variant], Tiny],
    tmp_path: Path,
) -> None:
    case = tiny(BY_NAME[name])
    spec = tmp_path / "wrong.yaml"
    spec.write_text(f"extends: {case.variant.family}\n{mistake}\n")
    build = compile_model(case.checkpoint, tmp_path / "build", spec=spec)
    model = builds.load(build, case.checkpoint)
    expected = reference.read(case.reference)
    assert SCENARIOS[scenario](model, expected) > 10 * TOLERANCE
