"""Read the arguments of a tokenizer, by transformers' names: obeyed, or refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .files import TokenizerError

PADDINGS = ("longest", "max_length", "do_not_pad")
TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")
SIDES = ("left", "right")
#: Arguments of transformers that are not obeyed, and what to do; None, False and 0 do
#: nothing there and are accepted.
REFUSED = {
    "text_target": "tokenize the target in a call of its own",
    "text_pair_target": "tokenize the target in a call of its own",
    "max_target_length": "tokenize the target in a call of its own",
    "stride": "cut the text into overlapping parts before",
    "return_overflowing_tokens": "cut the text into parts before",
    "is_split_into_words": "join the words into a text",
    "return_offsets_mapping": "use the package tokenizers",
    "return_special_tokens_mask": "compare the ids with special_tokens",
    "use_source_tokenizer": "this tokenizer has one language",
    "spaces_between_special_tokens": "join the pieces after decoding them",
    "truncation_strategy": "it is called truncation=",
    "pad_to_max_length": "it is called padding='max_length'",
}
#: Arguments that change nothing here.
IDLE = frozenset(("verbose",))


def refuse(given: Mapping[str, Any], call: str) -> None:
    """Refuses arguments that nothing obeys; `call` is what they are given to."""
    for name, value in given.items():
        if name in IDLE or (name in REFUSED and value in (None, False, 0)):
            continue
        advice = REFUSED.get(name, "there is no argument of that name")
        raise TokenizerError(f"{call} does not obey {name}={value!r:.40}: {advice}.")


@dataclass(frozen=True)
class Shape:
    """The cutting and padding of rows, and what is answered beside them.

    `padding` and `truncation` are strategies by transformers' names; `max_length` is
    None where nothing is cut or padded to it.
    """

    padding: str = "do_not_pad"
    truncation: str = "do_not_truncate"
    max_length: int | None = None
    multiple: int | None = None
    side: str | None = None
    mask: bool = True
    types: bool | None = None
    length: bool = False

    @property
    def most(self) -> int | None:
        """The most tokens that a row may have."""
        return None if self.truncation == "do_not_truncate" else self.max_length


def shape(
    padding: bool | str | None,
    truncation: bool | str | None,
    max_length: int | None,
    others: dict[str, Any],
    model_max: int | None,
) -> Shape:
    """Reads the shape of a call; takes its arguments out of `others`.

    `model_max` is what the repository says that a model can read. Raises
    TokenizerError for values that mean nothing.
    """
    if max_length is not None and padding is False and truncation is None:
        truncation = True
    pads = _strategy("padding", padding, "longest", PADDINGS)
    cuts = _strategy("truncation", truncation, "longest_first", TRUNCATIONS)
    _check_count("max_length", max_length)
    if max_length is None and "max_length" in (pads, cuts != TRUNCATIONS[-1]):
        max_length = model_max
    if cuts != TRUNCATIONS[-1] and max_length is None:
        max_length = model_max
    if max_length is None:
        # As in transformers: without a length there is nothing to cut or to fill.
        cuts = TRUNCATIONS[-1]
        pads = PADDINGS[-1] if pads == "max_length" else pads
    multiple = others.pop("pad_to_multiple_of", None)
    _check_count("pad_to_multiple_of", multiple)
    cut = cuts != TRUNCATIONS[-1] and pads != PADDINGS[-1]
    if multiple and max_length and cut and max_length % multiple:
        raise TokenizerError(
            f"rows are cut to max_length={max_length}, which is no multiple of "
            f"pad_to_multiple_of={multiple}."
        )
    side = others.pop("padding_side", None)
    if side not in (None, *SIDES):
        raise TokenizerError(f"padding_side is {side!r}; it is 'left' or 'right'.")
    mask = others.pop("return_attention_mask", None)
    return Shape(
        pads,
        cuts,
        max_length,
        multiple,
        side,
        mask is None or bool(mask),
        others.pop("return_token_type_ids", None),
        bool(others.pop("return_length", False)),
    )


def _strategy(
    name: str, value: bool | str | None, usual: str, known: tuple[str, ...]
) -> str:
    if value is None or value is False:
        return known[-1]
    if value is True:
        return usual
    # transformers' enumerations have their strategy as a value.
    text = getattr(value, "value", value)
    if text not in known:
        raise TokenizerError(
            f"{name} is {value!r:.40}; it is True, False or one of {', '.join(known)}."
        )
    return str(text)


def _check_count(name: str, value: object) -> None:
    if value is not None and (type(value) is not int or not 0 < value <= 1 << 30):
        raise TokenizerError(f"{name} is {value!r:.40}; it is a number above 0.")


def fit(
    first: list[int], second: list[int] | None, most: int, how: str, side: str
) -> tuple[list[int], list[int] | None]:
    """Cuts two texts' ids to `most` together, as transformers cuts them.

    `side` is where tokens are left out. Raises TokenizerError where the text that may
    be cut is too short for it.
    """
    rest = second or []
    over = len(first) + len(rest) - most
    if over <= 0:
        return first, second
    if how == "longest_first":
        # The shorter text stays whole while the longer one can make room.
        short = min(len(first), len(rest))
        long = max(short, most - short)
        if short + long > most:
            short, long = most // 2, most - most // 2
        keep = (short, long) if len(first) <= len(rest) else (long, short)
    else:
        keep = (
            (len(first) - over, len(rest))
            if how == "only_first"
            else (len(first), len(rest) - over)
        )
    if min(keep) < 0 or (how != "longest_first" and min(keep) == 0):
        raise TokenizerError(
            f"truncation={how!r} would leave nothing of the text that it cuts; use "
            "'longest_first', or a larger max_length."
        )
    cut = cut_to(first, keep[0], side)
    return cut, None if second is None else cut_to(rest, keep[1], side)


def cut_to(ids: list[int], count: int, side: str) -> list[int]:
    """Keeps `count` of the ids; those at `side` are left out."""
    return ids[:count] if side == "right" else ids[len(ids) - count :]


def check_texts(value: object) -> list[str]:
    """Returns texts to encode, from one or a list of them."""
    if isinstance(value, list | tuple):
        if not value:
            raise TokenizerError("there is no text to encode: the list is empty.")
        return [check_text(part) for part in value]
    return [check_text(value)]


def check_text(value: object) -> str:
    """Returns a text to encode; raises TokenizerError for anything else."""
    if not isinstance(value, str):
        raise TokenizerError(
            f"what is encoded must be text or a list of texts, not a "
            f"{type(value).__name__}."
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has half a surrogate pair at {error.start}, which is no "
            "character; read it as UTF-8, or encode it with errors='replace' first."
        ) from error
    return value


def check_ids(value: object) -> list[int]:
    """Returns the ids of one text, from a number, a list or a tensor."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    ids = [value] if isinstance(value, int) else value
    if isinstance(ids, list | tuple):
        plain = [int(i) for i in ids if isinstance(i, int | torch.Tensor)]
        if len(plain) == len(ids) and all(i >= 0 for i in plain):
            return plain
    raise TokenizerError(
        "decode takes the ids of one text, none of them negative; for several rows "
        "there is batch_decode."
    )
