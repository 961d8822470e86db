"""Make small configs of the same shape: sizes in general position, everything else
kept.

Two small models with sizes that nothing shares stand for the model. No size is equal
to another or to a number that the text writes out: a literal 4 in a text and 4 heads in
the model would make a wrong layout look right.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from glmc.authoring.vocabulary import Vocabulary
from glmc.ir.errors import UnprovedError
from glmc.prove.texts.job import BEYOND

_LAYERS = 3
_MOST_LAYERS = 8
_WINDOWS = ("attention.window", "attention.chunk")
_LONGEST = re.compile(r"max\w*(position|length|seq)|^seq_length$|^n_ctx$")
"""Names of keys for the longest input."""
_GROUPS = re.compile(r"query_group|kv_head|key_value_head")
_EPS = (2e-2, 1.3e-2)
_DTYPES = {"torch_dtype", "dtype"}
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")


@dataclass(frozen=True)
class Sizes:
    """The sizes of a small model, by what they are."""

    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    ff: int
    vocab: int
    longest: int
    window: int


def literals(texts: Iterable[str]) -> set[int]:
    """Return the integers that texts write out."""
    return {
        node.value
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and type(node.value) is int
    }


def shrink(
    config: Mapping[str, Any], words: Vocabulary, taken: set[int], which: int
) -> tuple[dict[str, Any], Sizes]:
    """Return the small config number ``which``, and its sizes.

    Args:
        config: config.json.
        words: what other specs call the sizes.
        taken: integers that no size may be.
        which: 0 or 1; the sizes of the two have nothing in common.

    Raises:
        GlmcError: when the config has no key for a size that every decoder has.
    """
    keys = {
        place: [key for key in words.keys[f"dims.{place}"] if _whole(config.get(key))]
        for place in "HKDEFVX"
    }
    keys["K"] = keys["K"] or [
        k for k in config if _GROUPS.search(k) and _whole(config[k])
    ]
    for place, what in (("H", "heads"), ("E", "the hidden size"), ("V", "the words")):
        if not keys[place]:
            raise UnprovedError(
                f"config.json has no key that is known to hold {what}, so no small "
                "model can be made; write the spec by hand."
            )
    sizes = _sizes(config, keys, taken, which)
    small = dict(config)
    named = {"H": sizes.heads, "K": sizes.kv_heads, "D": sizes.head_dim,
             "E": sizes.hidden, "F": sizes.ff, "V": sizes.vocab}  # fmt: skip
    for place in "VFEDHK":
        for key in keys[place]:
            small[key] = named[place]
    _shorten(small, config, words)
    for key in (k for place in _WINDOWS for k in words.keys[place]):
        if _whole(config.get(key)) and config[key] > 1:
            small[key] = sizes.window
    for key, value in config.items():
        length = key in words.keys["max_positions"] or _LONGEST.search(key)
        if length and _whole(value):
            small[key] = sizes.longest
    for key, value in config.items():
        if "eps" in key and isinstance(value, float):
            small[key] = _EPS[which]  # large, so that a wrong one shows
    small |= dict.fromkeys(_DTYPES & small.keys(), "float32")
    for at, key in enumerate(_TOKENS):
        if _whole(small.get(key)) and small[key] >= sizes.vocab:
            small[key] = at
    return small, sizes


def _whole(value: object) -> bool:
    return type(value) is int and value > 0


def _sizes(
    config: Mapping[str, Any],
    keys: Mapping[str, list[str]],
    taken: set[int],
    which: int,
) -> Sizes:
    """Choose sizes in the proportions of the real ones: equal where those are equal."""

    def real(place: str) -> int | None:
        return config[keys[place][0]] if keys[place] else None

    used = set(taken)

    def free(start: int, step: int, *, other: int = 1) -> int:
        """Return the first number from ``start`` on that nobody has."""
        for value in count(start, step):
            if value not in used and value * other not in used:
                used.update({value, value * other})
                return value
        raise AssertionError("numbers do not end")

    heads_real, kv_real, hidden = real("H"), real("K"), real("E")
    assert heads_real is not None
    assert hidden is not None
    kv = 1 if kv_real == 1 else free(3 + 2 * which, 2)
    heads = kv if kv_real == heads_real else free(2 * kv, kv)
    if kv_real is None:
        kv = heads
    dim_real = real("D") or hidden // heads_real
    dim = free(12 + 8 * which, 4, other=heads)
    whole = dim_real * heads_real == hidden
    hidden_size = dim * heads if whole else free(heads * dim + 28, 4)
    # A window that the text writes out is seen by the model whose own is longer, or is
    # beyond the longest prompt, where the rule on bounds refuses it.
    longest = free(47 + 10 * which, 2)
    while which and longest < 99 and _near(taken, longest):
        longest = free(longest, 2)
    return Sizes(
        heads=heads,
        kv_heads=kv,
        head_dim=dim,
        hidden=hidden_size,
        ff=free(52 + 40 * which, 4),
        vocab=free(211 + 90 * which, 2),
        longest=longest,
        window=longest - 2 if which else free(7, 2),
    )


def _near(taken: set[int], longest: int) -> bool:
    """Tell whether a number of the text is between a window and the longest prompt."""
    return any(longest - 2 <= one <= longest + BEYOND for one in taken)


def _shorten(
    small: dict[str, Any], config: Mapping[str, Any], words: Vocabulary
) -> None:
    """Keep a few layers, of every kind that the config lists."""
    keys = [key for key in words.keys["layers"] if _whole(config.get(key))]
    real = max((config[key] for key in keys), default=0)
    lists = {
        key: value
        for key, value in config.items()
        if isinstance(value, list) and len(value) == real and real > 1
    }
    count_ = min(real, _LAYERS)
    for value in lists.values():
        seen = [value.index(kind) for kind in value]
        count_ = max(count_, max(seen, default=0) + 1)
    count_ = min(count_, _MOST_LAYERS)
    for key in keys:
        small[key] = count_
    small |= {key: value[:count_] for key, value in lists.items()}
