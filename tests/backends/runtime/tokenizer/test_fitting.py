"""Two texts cut to a length together, by hand on both sides of each bound."""

from __future__ import annotations

import pytest

from glmc.backends.runtime.tokenizer.arguments import fit
from glmc.backends.runtime.tokenizer.files import TokenizerError

ONE, TWO = [1, 2, 3, 4, 5], [6, 7, 8]


@pytest.mark.parametrize(
    ("most", "how", "side", "kept"),
    [
        (8, "only_first", "right", (ONE, TWO)),
        (7, "only_first", "right", ([1, 2, 3, 4], TWO)),
        (4, "only_first", "right", ([1], TWO)),
        (4, "only_first", "left", ([5], TWO)),
        (7, "only_second", "right", (ONE, [6, 7])),
        (6, "only_second", "left", (ONE, [8])),
        (7, "longest_first", "right", ([1, 2, 3, 4], TWO)),
        (6, "longest_first", "left", ([3, 4, 5], TWO)),
        (5, "longest_first", "right", ([1, 2, 3], [6, 7])),
        (4, "longest_first", "right", ([1, 2], [6, 7])),
        (1, "longest_first", "right", ([1], [])),
        (0, "longest_first", "right", ([], [])),
    ],
)
def test_what_is_kept(
    most: int, how: str, side: str, kept: tuple[list[int], list[int]]
) -> None:
    assert fit(ONE, TWO, most, how, side) == kept


@pytest.mark.parametrize(
    ("most", "how"),
    [(3, "only_first"), (2, "only_first"), (5, "only_second"), (1, "only_second")],
)
def test_a_text_that_would_be_gone(most: int, how: str) -> None:
    with pytest.raises(TokenizerError, match="would leave nothing of the text"):
        fit(ONE, TWO, most, how, "right")


def test_one_text_alone() -> None:
    assert fit(ONE, None, 5, "only_first", "right") == (ONE, None)
    assert fit(ONE, None, 2, "longest_first", "left") == ([4, 5], None)
