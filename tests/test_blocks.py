"""Attention over selected blocks with padding, where transformers errs by its word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support import builds, edits, reference
from support.parity import TOLERANCE
from support.variants import BY_NAME, Tiny, Variant

NAME = "minimax_m3_vl_text-blocks"


def test_padding_moves_no_block(
    tiny: Callable[[Variant], Tiny], compiled: Callable[[Path], Path]
) -> None:
    """A row with padding on its left answers as the row alone does."""
    case = tiny(BY_NAME[NAME])
    model = builds.load(compiled(case.checkpoint), case.checkpoint)
    batch = reference.padded_batch(BY_NAME[NAME].config["vocab_size"])
    got = reference.cached(model, batch.ids, batch.mask, batch.positions)
    padding = int((batch.mask[0] == 0).sum())
    assert padding % BY_NAME[NAME].config["index_block_size"]
    alone = model(input_ids=batch.ids[:1, padding:]).logits
    assert (got[0, padding:] - alone[0]).abs().max() <= TOLERANCE


def test_control_borders_that_padding_moves_show(
    tiny: Callable[[Variant], Tiny], compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    case = tiny(BY_NAME[NAME])
    right = compiled(case.checkpoint)
    old, new = (
        "if kept.start is None:\n        return (slots // block)",
        ("if True:\n        return (slots // block)"),
    )
    wrong = edits.with_source(right, tmp_path / "build", "reference.py", old, new)
    batch = reference.padded_batch(BY_NAME[NAME].config["vocab_size"])
    answers = [
        reference.cached(builds.load(one, case.checkpoint), *vars(batch).values())
        for one in (right, wrong)
    ]
    padding = int((batch.mask[0] == 0).sum())
    both = (answers[0] - answers[1])[0, padding:]
    assert both.abs().max() > 10 * TOLERANCE
