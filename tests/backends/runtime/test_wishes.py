"""Options of a generation, each at its bounds: what it may be, and what asks for
nothing."""

from __future__ import annotations

from typing import Any

import pytest

from glmc.backends.runtime.wishes import OBEYED, checked, defaults, unheard

LARGE = 1 << 40
# The least and the most that is taken, what is just beyond, and what asks for nothing.
NUMBERS: dict[str, tuple[float, float, tuple[float, ...], object]] = {
    "temperature": (0, 1e6, (-1e-9, 1e6 + 1), "none"),
    "top_p": (1e-9, 1, (0, 1 + 1e-9), 1),
    "min_p": (0, 1, (-1e-9, 1 + 1e-9), 0),
    "typical_p": (1e-9, 1, (0, 1 + 1e-9), 1),
    "epsilon_cutoff": (0, 0.999999, (-1e-9, 1), 0),
    "eta_cutoff": (0, 0.999999, (-1e-9, 1), 0),
    "repetition_penalty": (1e-6, 1e6, (0, 1e6 + 1), 1),
    "max_time": (0, 1e9, (-1e-9, 1e9 + 1), "none"),
    "top_k": (0, LARGE - 1, (-1, LARGE, 1.0), 0),
    "no_repeat_ngram_size": (0, LARGE - 1, (-1, LARGE, 1.0), 0),
    "min_length": (0, LARGE - 1, (-1, LARGE, 1.0), 0),
    "min_new_tokens": (0, LARGE - 1, (-1, LARGE, 1.0), 0),
    "max_length": (1, LARGE - 1, (0, LARGE, 1.0), "none"),
    "max_new_tokens": (0, LARGE - 1, (-1, LARGE, 1.0), "none"),
    "num_return_sequences": (1, LARGE - 1, (0, LARGE, 1.0), 1),
}
OTHERS: list[tuple[str, object, object]] = [
    ("do_sample", True, True),
    ("do_sample", False, False),
    ("remove_invalid_values", True, True),
    ("renormalize_logits", False, False),
    ("forced_bos_token_id", 0, (0,)),
    ("forced_eos_token_id", [3, 1], (3, 1)),
    ("suppress_tokens", [], None),
    ("begin_suppress_tokens", (5,), (5,)),
    ("bad_words_ids", [[1, 2], [3]], ((1, 2), (3,))),
    ("bad_words_ids", [], None),
    ("sequence_bias", [[[1, 2], -3]], (((1, 2), -3.0),)),
    ("sequence_bias", {(1,): 2.5}, (((1,), 2.5),)),
    ("sequence_bias", [], None),
    ("exponential_decay_length_penalty", [0, 1e6], (0, 1e6)),
    ("stop_strings", "a", ("a",)),
    ("stop_strings", ["a", "b"], ("a", "b")),
    ("stop_strings", [], None),
]
REFUSED: list[tuple[str, object, str]] = [
    ("do_sample", 1, "True or False"),
    ("do_sample", None, "True or False"),
    ("forced_bos_token_id", -1, "a token id or a list"),
    ("forced_eos_token_id", [1, -1], "a token id or a list"),
    ("suppress_tokens", [True], "a token id or a list"),
    ("begin_suppress_tokens", 1.0, "a token id or a list"),
    ("bad_words_ids", [1], "a list of lists"),
    ("bad_words_ids", [[]], "a list of lists"),
    ("sequence_bias", [[[1], 2, 3]], r"a list of \[token ids, number\]"),
    ("sequence_bias", 3, r"a list of \[token ids, number\]"),
    ("exponential_decay_length_penalty", [1], "new tokens, base"),
    ("exponential_decay_length_penalty", [-1, 1], "whole number, 0 or more"),
    ("exponential_decay_length_penalty", [1, -1], "a number from 0 to 1e"),
    ("stop_strings", ["a", ""], "none of them empty"),
    ("stop_strings", "", "none of them empty"),
]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_at_their_bounds(name: str) -> None:
    least, most, beyond, off = NUMBERS[name]
    for value in (least, most):
        assert checked(name, value, "a call") == (None if value == off else value)
    if off != "none":
        assert checked(name, off, "a call") is None
    for wrong in (*beyond, True, "1", None):
        said = rf"^a call has {name}=.*, which must be a (whole )?number"
        with pytest.raises(ValueError, match=said):
            checked(name, wrong, "a call")


@pytest.mark.parametrize(("name", "value", "taken"), OTHERS)
def test_what_else_they_may_be(name: str, value: Any, taken: object) -> None:
    assert checked(name, value, "a call") == taken


@pytest.mark.parametrize(("name", "value", "said"), REFUSED)
def test_what_they_may_not_be(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^a call has {name}=.*{said}"):
        checked(name, value, "a call")


def test_every_option_is_tried_here() -> None:
    assert OBEYED.keys() == {*NUMBERS, *(name for name, _, _ in OTHERS)}


def test_what_a_file_asks_for() -> None:
    config = {
        **{"top_k": 0, "top_p": 0.5, "temperature": None, "max_length": 9},
        **{"num_beams": 1, "length_penalty": 2.0, "_from": 1, "bos_token_id": 3},
        **{"use_cache": False, "guidance_scale": None, "token_healing": True},
    }
    assert defaults(config, "a file") == {"top_p": 0.5, "max_length": 9}
    assert unheard(config) == {"length_penalty": 2.0, "token_healing": True}
