"""Settle how text is generated: as a call asks, and else as the checkpoint's file does.

Names and values are those of `wishes`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .processing import Rules
from .wishes import NEUTRAL, OBEYED, checked

#: Of transformers, where sampling is asked for and no number is said.
USUAL_TOP_K = 50
#: Where neither a call nor a file says how long a text may get.
USUAL_NEW = 128
#: Where only a file says so. The cache has room for a whole text from the beginning.
USUAL_MOST = 2048
_DRAWS = ("temperature", "top_k", "top_p", "min_p")
_CUTS = ("typical_p", "epsilon_cutoff", "eta_cutoff")


@dataclass(frozen=True)
class Settings:
    """The settings of one generation. `draws` are the sampler's arguments, None where
    it is greedy; `longest` is the file's limit on the whole text, where the call has
    none."""

    draws: Mapping[str, Any] | None
    rules: Rules
    new: int | None
    length: int | None
    limited: bool
    copies: int
    stop_strings: tuple[str, ...]
    seconds: float | None


def settle(
    usual: Mapping[str, Any],
    given: Mapping[str, Any],
    eos: Sequence[int],
    own: Sequence[Any] = (),
) -> Settings:
    """Returns the settings of a call: what is `given` overrides what is `usual`.

    None counts as not given. Raises ValueError for what is not obeyed, for values that
    mean nothing, and for arguments that contradict each other.
    """
    said = {k: v for k, v in given.items() if v is not None}
    for name, value in said.items():
        if name not in OBEYED and value not in NEUTRAL.get(name, ()):
            raise ValueError(
                f"generate() does not obey {name}={value!r:.60}"
                + ("." if name in NEUTRAL else ": there is no argument of that name.")
            )
    named = {k: checked(k, v, "generate()") for k, v in said.items() if k in OBEYED}
    all_of = {**usual, **named}
    draws = _draws(usual, named, all_of)
    copies = all_of.get("num_return_sequences") or 1
    if copies > 1 and draws is None:
        raise ValueError(
            f"num_return_sequences={copies} of a greedy choice are all the same; give "
            "do_sample=True or a temperature."
        )
    new, length = named.get("max_new_tokens"), named.get("max_length")
    limited = new is not None or length is not None
    if not limited:
        new, length = usual.get("max_new_tokens"), usual.get("max_length")
    return Settings(
        draws,
        _rules(all_of, tuple(eos), tuple(own)),
        new,
        length,
        limited,
        copies,
        all_of.get("stop_strings") or (),
        all_of.get("max_time"),
    )


def _draws(
    usual: Mapping[str, Any], named: Mapping[str, Any], all_of: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Returns the sampler's arguments; None for the greedy choice."""
    asked = [name for name in (*_DRAWS, *_CUTS) if named.get(name) is not None]
    wanted = named.get("do_sample")
    if wanted is False and asked and named.get("temperature") != 0:
        raise ValueError(
            f"do_sample=False takes the most probable token, and {asked[0]} is for "
            "tokens that are drawn; leave out one of them."
        )
    by_word = usual.get("do_sample", False) if wanted is None else wanted
    if all_of.get("temperature") == 0 or not (by_word or (wanted is None and asked)):
        return None
    found = {name: all_of.get(name) for name in (*_DRAWS, *_CUTS)}
    if found["temperature"] is None:
        found["temperature"] = 1.0
    if by_word and "top_k" not in all_of:
        found["top_k"] = USUAL_TOP_K
    return found


def _rules(
    said: Mapping[str, Any], eos: tuple[int, ...], own: tuple[Any, ...]
) -> Rules:
    def of(name: str, usual: Any) -> Any:
        value = said.get(name)
        return usual if value is None else value

    return Rules(
        bias=of("sequence_bias", ()),
        repetition_penalty=of("repetition_penalty", 1.0),
        no_repeat_ngram_size=of("no_repeat_ngram_size", 0),
        bad_words=of("bad_words_ids", ()),
        min_length=of("min_length", 0),
        min_new_tokens=of("min_new_tokens", 0),
        forced_bos=of("forced_bos_token_id", ()),
        forced_eos=of("forced_eos_token_id", ()),
        remove_invalid_values=of("remove_invalid_values", False),
        decay=of("exponential_decay_length_penalty", None),
        suppressed=of("suppress_tokens", ()),
        suppressed_first=of("begin_suppress_tokens", ()),
        eos=eos,
        own=own,
    )
