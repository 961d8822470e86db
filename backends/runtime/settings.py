"""How text is generated: what a call asks for, and what generation_config.json does.

Names and values are transformers'. Every key is obeyed, or refused by name; what asks
for nothing (`num_beams=1`) is accepted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .processing import Rules

#: Of transformers, where sampling is asked for and no number is said.
USUAL_TOP_K = 50
#: Where neither a call nor a file says how long a text may get.
USUAL_NEW = 128
_DRAWS = ("temperature", "top_k", "top_p", "min_p")
_CUTS = ("typical_p", "epsilon_cutoff", "eta_cutoff")

Check = Callable[[Any], Any]


def _number(least: float, most: float, off: object = None) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"a number from {least:g} to {most:g}")
        if not least <= value <= most:
            raise ValueError(f"a number from {least:g} to {most:g}")
        return None if value == off else float(value)

    return check


def _count(least: int, off: object = None) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not int or not least <= value < 1 << 40:
            raise ValueError(f"a whole number, {least} or more")
        return None if value == off else value

    return check


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def _ids(value: Any) -> Any:
    many = value if isinstance(value, list | tuple) else [value]
    if any(type(i) is not int or i < 0 for i in many):
        raise ValueError("a token id or a list of them")
    return tuple(many) or None


def _words(value: Any) -> Any:
    if not isinstance(value, list | tuple) or not all(
        isinstance(word, list | tuple) and word for word in value
    ):
        raise ValueError("a list of lists of token ids")
    return tuple(_ids(word) for word in value) or None


def _bias(value: Any) -> Any:
    pairs = [*value.items()] if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise ValueError("a list of [token ids, number]")
    number = _number(-float("inf"), float("inf"))
    return tuple((_ids(word), number(bias)) for word, bias in pairs) or None


def _decay(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("[new tokens, base]")
    return _count(0)(value[0]), _number(0, 1e6)(value[1])


def _texts(value: Any) -> Any:
    many = [value] if isinstance(value, str) else value
    if not isinstance(many, list | tuple) or not all(
        isinstance(text, str) and text for text in many
    ):
        raise ValueError("a text or a list of texts, none of them empty")
    return tuple(many) or None


#: What each key may be; the check makes what asks for nothing None.
OBEYED: dict[str, Check] = {
    "do_sample": _flag,
    "temperature": _number(0, 1e6),
    "top_k": _count(0, 0),
    "top_p": _number(1e-9, 1, 1),
    "min_p": _number(0, 1, 0),
    "typical_p": _number(1e-9, 1, 1),
    "epsilon_cutoff": _number(0, 0.999999, 0),
    "eta_cutoff": _number(0, 0.999999, 0),
    "repetition_penalty": _number(1e-6, 1e6, 1),
    "no_repeat_ngram_size": _count(0, 0),
    "sequence_bias": _bias,
    "bad_words_ids": _words,
    "min_length": _count(0, 0),
    "min_new_tokens": _count(0, 0),
    "max_length": _count(1),
    "max_new_tokens": _count(0),
    "max_time": _number(0, 1e9),
    "forced_bos_token_id": _ids,
    "forced_eos_token_id": _ids,
    "remove_invalid_values": _flag,
    "exponential_decay_length_penalty": _decay,
    "suppress_tokens": _ids,
    "begin_suppress_tokens": _ids,
    "num_return_sequences": _count(1, 1),
    "stop_strings": _texts,
    # It changes no choice: the scores of all tokens move alike.
    "renormalize_logits": _flag,
}
#: What else may be asked for, where it asks for nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "use_cache": (True,),
    "early_stopping": (False,),
    "length_penalty": (1.0,),
    "diversity_penalty": (0.0,),
    "guidance_scale": (1.0,),
    "penalty_alpha": (0.0,),
    "low_memory": (False,),
    "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "token_healing": (False,),
    "output_scores": (False,),
    "output_logits": (False,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "return_dict_in_generate": (False,),
}


@dataclass(frozen=True)
class Settings:
    """What one generation does. `draws` are the sampler's arguments, None where it is
    greedy; `longest` is the file's limit on the whole text, where the call has none."""

    draws: Mapping[str, Any] | None
    rules: Rules
    new: int | None
    length: int | None
    limited: bool
    copies: int
    stop_strings: tuple[str, ...]
    seconds: float | None


def checked(name: str, value: object, where: str) -> Any:
    """The value of a key that is obeyed; raises ValueError where it is no such."""
    try:
        return OBEYED[name](value)
    except ValueError as error:
        raise ValueError(
            f"{where} has {name}={value!r:.60}, which must be {error}."
        ) from None


def defaults(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a generation_config.json says of keys that are obeyed."""
    found = {
        name: checked(name, value, where)
        for name, value in config.items()
        if name in OBEYED and value is not None
    }
    return {name: value for name, value in found.items() if value is not None}


def settle(
    usual: Mapping[str, Any],
    given: Mapping[str, Any],
    eos: Sequence[int],
    own: Sequence[Any] = (),
) -> Settings:
    """The settings of a call: what is `given` stands above what is `usual`.

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
    """The sampler's arguments; None for the greedy choice."""
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
