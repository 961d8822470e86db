"""Each rule of a generation by hand, on both sides of where it begins."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.backends.runtime.processing import NEVER, History, Processing, Rules

CPU = torch.device("cpu")
SCORES = torch.tensor([[1.0, -2.0, 3.0, 0.5, -0.25, 2.0]])


def after(
    tokens: list[int], prompt: int, total: int = 99, padding: int = 0, **rules: Any
) -> list[float]:
    """The scores once the rules were applied behind these tokens."""
    past = History(1, len(tokens) + 2, CPU)
    mask = torch.ones(1, len(tokens))
    mask[:, :padding] = 0
    past.begin(torch.tensor([tokens]), mask, prompt, total)
    made = Processing(Rules(**rules), SCORES.shape[1], CPU)(SCORES.clone(), past)
    found: list[float] = made[0].tolist()
    return found


def with_values(**values: float) -> list[float]:
    plain: list[float] = SCORES[0].tolist()
    for at, value in values.items():
        plain[int(at.removeprefix("at"))] = value
    return plain


@pytest.mark.parametrize(
    ("tokens", "rules", "changed"),
    [
        # An end may not be the fourth token where five are asked for, but the fifth.
        ([4, 4, 4, 4], {"min_length": 5, "eos": (2,)}, {"at2": NEVER}),
        ([4, 4, 4, 4, 4], {"min_length": 5, "eos": (2,)}, {}),
        ([4, 4, 4], {"min_new_tokens": 2, "eos": (2, 5)}, {"at2": NEVER, "at5": NEVER}),
        ([4, 4, 4, 4], {"min_new_tokens": 2, "eos": (2, 5)}, {}),
        ([4, 4], {"suppressed": (0, 3)}, {"at0": NEVER, "at3": NEVER}),
        ([4, 4], {"suppressed_first": (0,)}, {"at0": NEVER}),
        ([4, 4, 4], {"suppressed_first": (0,)}, {}),
        ([4, 0], {"bad_words": ((0, 3),)}, {"at3": NEVER}),
        ([0, 4], {"bad_words": ((0, 3),)}, {}),
        ([4, 0], {"bad_words": ((5,),)}, {"at5": NEVER}),
        ([4, 0], {"bias": (((5,), 1.5), ((0, 3), -0.5))}, {"at5": 3.5, "at3": 0.0}),
        ([0, 1], {"bias": (((9 - 8, 0, 3), 2.0),)}, {}),
        ([1, 0], {"repetition_penalty": 2.0}, {"at0": 0.5, "at1": -4.0}),
        ([0, 1, 0], {"no_repeat_ngram_size": 2}, {"at1": NEVER}),
        ([0, 1, 2], {"no_repeat_ngram_size": 2}, {}),
        (
            [0, 1, 2],
            {"no_repeat_ngram_size": 1},
            {"at0": NEVER, "at1": NEVER, "at2": NEVER},
        ),
        ([0, 1, 0, 1], {"no_repeat_ngram_size": 3}, {"at0": NEVER}),
        ([0], {"no_repeat_ngram_size": 9}, {}),
        # Two tokens after the prompt of two: not yet, and from the third on.
        ([4, 4, 4, 4], {"decay": (2, 3.0), "eos": (2,)}, {}),
        ([4] * 5, {"decay": (2, 3.0), "eos": (2, 1)}, {"at2": 9.0, "at1": 2.0}),
        ([4] * 6, {"decay": (2, 3.0), "eos": (2,)}, {"at2": 27.0}),
    ],
)
def test_what_a_rule_changes(
    tokens: list[int], rules: dict[str, Any], changed: dict[str, float]
) -> None:
    assert after(tokens, 2, **rules) == pytest.approx(with_values(**changed))


def test_padding_was_never_said() -> None:
    rules = {"repetition_penalty": 2.0}
    assert after([0, 2], 2, padding=1, **rules) == with_values(at2=1.5)
    assert after([0, 2], 2, **rules) == with_values(at0=0.5, at2=1.5)


def test_forced_tokens_are_all_there_is() -> None:
    only = [NEVER] * 6
    only[3] = 0.0
    forced = {"forced_bos": (3,)}
    assert after([4], 1, **forced) == only
    assert after([4, 4], 1, **forced) == with_values()
    last = {"forced_eos": (3,)}
    assert after([4] * 7, 2, total=8, **last) == only
    assert after([4] * 6, 2, total=8, **last) == with_values()
    # A forced first token is not the first that may not be some.
    both = {"forced_bos": (3,), "suppressed_first": (0,)}
    assert after([4, 4], 1, **both) == with_values(at0=NEVER)


def test_invalid_values_become_numbers() -> None:
    past = History(1, 4, CPU)
    past.begin(torch.tensor([[1]]), None, 1, 9)
    rules = Processing(Rules(remove_invalid_values=True), 4, CPU)
    inf, nan = float("inf"), float("nan")
    found = rules(torch.tensor([[nan, inf, -inf, 2.0]]), past)[0].tolist()
    most = torch.finfo(torch.float32).max
    assert found == [0.0, most, -most, 2.0]


def test_ids_that_the_model_has_not_are_refused() -> None:
    Processing(Rules(suppressed=(5,)), 6, CPU)
    with pytest.raises(ValueError, match=r"the token 6 .* has 6 ids, 0 to 5"):
        Processing(Rules(bias=(((6,), 1.0),)), 6, CPU)


def test_rules_that_change_nothing_are_idle() -> None:
    assert Rules().idle
    assert Rules(eos=(3,)).idle
    assert not Rules(suppressed=(0,)).idle
    assert not Rules(own=(lambda ids, scores: scores,)).idle


def test_a_history_follows_another_in_more_rows_and_slots() -> None:
    two = History(2, 3, CPU)
    mask = torch.tensor([[1, 1], [0, 1]])
    two.begin(torch.tensor([[1, 2], [3, 4]]), mask, 2, 9)
    two.append(torch.tensor([5, 6]))
    four = History(4, 5, CPU)
    four.follow(two)
    rows = [[1, 2, 5, 0, 0], *([[3, 4, 6, 0, 0]] * 3)]
    assert four.tokens.tolist() == rows
    assert four.first.tolist() == [0, 1, 1, 1]
    assert [int(four.count), int(four.prompt), int(four.total)] == [3, 2, 9]
    less = History(2, 2, CPU)
    less.follow(two)
    assert less.tokens.tolist() == [[1, 2], [3, 4]]


def test_each_row_has_its_own_history() -> None:
    """More rows than slots, and more slots than rows."""
    for rows, slots in ((3, 2), (2, 5)):
        past = History(rows, slots, CPU)
        past.begin(torch.tensor([[4, 4], [0, 3], [3, 0]][:rows]), None, 2, 9)
        bigrams = Processing(Rules(no_repeat_ngram_size=1), 6, CPU)
        found = bigrams(SCORES.repeat(rows, 1), past).tolist()
        expected = [with_values(at4=NEVER), *([with_values(at0=NEVER, at3=NEVER)] * 2)]
        assert found == expected[:rows]
