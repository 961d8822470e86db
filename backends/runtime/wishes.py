"""The options of generation, in a call and in a generation_config.json.

Names and values are transformers'. Every key is obeyed, or named where it is not; what
asks for nothing (`num_beams=1`) is accepted. Needs no torch: `glmc check` looks here.
"""

from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], Any]


def _number(least: float, most: float, off: object = None) -> Check:
    def check(value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most:
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
    if value is True or value is False:
        return value
    raise ValueError("True or False")


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
#: Keys of a file that ask for nothing, whatever their value: the tokens that were
#: compiled, where it is from, and how others keep and report what they compute.
SILENT = frozenset(
    (
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("transformers_version", "use_cache", "cache_implementation", "chat_format"),
        *("output_attentions", "output_hidden_states", "output_scores"),
        *("output_logits", "return_dict_in_generate", "disable_compile"),
        "trust_remote_code",
    )
)


def checked(name: str, value: object, where: str) -> Any:
    """Returns the value of a key that is obeyed; raises ValueError where it is no
    such."""
    try:
        return OBEYED[name](value)
    except ValueError as error:
        raise ValueError(
            f"{where} has {name}={value!r:.60}, which must be {error}."
        ) from None


def defaults(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the values of a generation_config.json for keys that are obeyed."""
    found = {
        name: checked(name, value, where)
        for name, value in config.items()
        if name in OBEYED and value is not None
    }
    return {name: value for name, value in found.items() if value is not None}


def unheard(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a generation_config.json that `generate` does not obey."""
    known = OBEYED.keys() | SILENT
    return {
        name: value
        for name, value in config.items()
        if name not in known
        and not name.startswith("_")
        and value is not None
        and value not in NEUTRAL.get(name, ())
    }
