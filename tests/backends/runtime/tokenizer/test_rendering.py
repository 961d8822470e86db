"""Masks of answers, by the characters of each token."""

from __future__ import annotations

import pytest

from glmc.backends.runtime.tokenizer.rendering import _mask

# Tokens 0 and 1 share character 2; token 2 has none; token 3 ends the text.
PLACES = [(7, 0, 3), (8, 2, 5), (9, 5, 5), (7, 5, 8)]


@pytest.mark.parametrize(
    ("spans", "mask"),
    [
        ([], [0, 0, 0, 0]),
        ([(0, 1)], [1, 0, 0, 0]),
        ([(0, 3)], [1, 0, 0, 0]),
        ([(2, 3)], [1, 0, 0, 0]),
        ([(3, 4)], [0, 1, 0, 0]),
        ([(4, 6)], [0, 1, 1, 1]),
        ([(5, 8)], [0, 0, 0, 1]),
        ([(0, 1), (7, 8)], [1, 0, 0, 1]),
        # Nothing was written in it.
        ([(0, 0)], [0, 0, 0, 0]),
        ([(1, 1)], [0, 0, 0, 0]),
        ([(4, 3)], [0, 0, 0, 0]),
        # Its last character is in no token: to the end.
        ([(4, 99)], [0, 1, 1, 1]),
        ([(99, 100)], [0, 0, 0, 0]),
    ],
)
def test_masks(spans: list[tuple[int, int]], mask: list[int]) -> None:
    assert _mask(PLACES, spans) == mask
