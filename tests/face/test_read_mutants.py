"""No mutant of a modeling file of transformers passes for the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.mutated import MUTATIONS, TEXTS, apart, mutant, original


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_no_mutant_of_a_published_file_is_accepted(name: str, tmp_path: Path) -> None:
    """Each mutation that the file has a place for, as `bench/read_mutants.py`."""
    whole = original(name, tmp_path / "original")
    assert max(apart(whole.text, one) for one in whole.smalls) < 1e-5
    changed = {one: mutant(whole.text, one, whole.tied) for one in MUTATIONS}
    places = {one: text for one, text in changed.items() if text is not None}
    assert len(places) >= 8
    accepted = [
        one
        for one, text in places.items()
        if whole.refusal(text, tmp_path / one) is None
    ]
    assert not accepted
