"""Positions of ChatGLM-6B, against the table of its published code."""

from __future__ import annotations

import pytest
import torch

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.glm_positions import GlmPositions
from glmc.backends.runtime.state import KeysValues

GMASK, MASK, SOP = 91, 90, 94
SCHEME = GlmPositions(gmask=GMASK, mask=MASK, sop=SOP)


def cache(rows: int = 1, learned: int = 0, start: list[int] | None = None) -> Cache:
    made = Cache(
        [{"kv": KeysValues(1, 2, 2)}], rows, learned + 20, torch.float32, "cpu"
    )
    if learned:
        made.begin_with(torch.zeros(1, learned, 2, 2))
    if start:
        made.start = torch.tensor(start, dtype=torch.int32) + learned
    return made


def find(made: Cache, *rows: list[int]) -> list[list[list[int]]]:
    """The positions of a call; the cache moves on."""
    ids = torch.tensor(rows)
    found: list[list[list[int]]] = SCHEME(None, made, ids, None).tolist()
    made.advance(ids.shape[1])
    return found


@pytest.mark.parametrize("learned", [0, 3])
def test_prompt_and_decoding(learned: int) -> None:
    made = cache(learned=learned)
    prompt = [5, 6, 7, 8, GMASK, SOP]
    assert find(made, prompt) == [[[0, 1, 2, 3, 4, 4], [0, 0, 0, 0, 0, 1]]]
    assert find(made, [9]) == [[[4], [2]]]
    assert find(made, [9, 9]) == [[[4, 4], [3, 4]]]
    assert made.prefix is not None
    assert made.prefix.tolist() == [5 + learned]


def test_a_mask_within_the_text() -> None:
    assert find(cache(), [5, MASK, 7, SOP, 8]) == [[[0, 1, 2, 1, 1], [0, 0, 0, 1, 2]]]


def test_gmask_comes_before_mask() -> None:
    ((first, _),) = find(cache(), [MASK, 6, GMASK, SOP])
    assert first == [0, 1, 2, 2]


@pytest.mark.parametrize("learned", [0, 3])
def test_padding_on_the_left_counts_for_nothing(learned: int) -> None:
    # A pad may be any id, that of <sop> too.
    made = cache(2, learned, start=[0, 2])
    rows = ([5, 6, 7, GMASK, SOP], [SOP, GMASK, 7, MASK, SOP])
    assert find(made, *rows) == [
        [[0, 1, 2, 3, 3], [0, 0, 0, 0, 1]],
        [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1]],
    ]
    assert find(made, [8], [8]) == [[[3], [2]], [[1], [2]]]


def test_given_positions_are_taken() -> None:
    given = torch.arange(8).view(2, 4)
    ids = torch.tensor([[5, 6, GMASK, SOP]])
    for shape in ((2, 4), (1, 2, 4)):
        got = SCHEME(given.view(shape), cache(), ids, None)
        assert torch.equal(got[0], given)
    with pytest.raises(ValueError, match=r"needs \[1, 2, 4\]: two positions"):
        SCHEME(torch.arange(4), cache(), ids, None)


@pytest.mark.parametrize(
    ("row", "lacking"),
    [
        ([5, 6, GMASK, 7], "no <sop> \\(id 94\\) in row 1"),
        ([5, 6, 7, SOP], "neither \\[gMASK\\] \\(id 91\\) nor .* in row 1"),
    ],
)
def test_a_prompt_without_the_special_tokens_is_refused(
    row: list[int], lacking: str
) -> None:
    with pytest.raises(ValueError, match=lacking):
        find(cache(2), [5, 6, GMASK, SOP], row)
