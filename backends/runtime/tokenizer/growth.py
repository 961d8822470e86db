"""Bound the size of results of Jinja's operations, before they are made.

Filters and methods of the same name do the same here: `x | center(9)`, `x.center(9)`.
"""

import re
from typing import Any

from .budget import MAX_BITS, Budget, TooMuchError, check_bits, words

#: They look at a value's own items at most, and not into them.
SHALLOW = words(
    "abs attr batch copy count d default first get items keys last length list map "
    "random reject rejectattr reverse safe select selectattr slice values"
)
#: They do not even do that.
INSTANT = words("attr count d default first get last length random")
#: They may answer without having seen all of a generator.
LAZY = words("batch d default first map reject rejectattr select selectattr slice")
#: They compare items with each other.
SORTS = words("dictsort groupby max min sort unique")
#: Python loops over every character, some of them more than once.
SLOW = words("pprint striptags urlize wordwrap xmlattr")
MAX_SLOW = 1 << 16
#: Their numbers are widths of what they make.
WIDE = words("batch center ljust rjust slice to_bytes truncate zfill")
#: Every character of theirs may be replaced by a text that they are given.
SPREAD = words("expandtabs translate wordwrap xmlattr")
#: They take text, or make text of what they take.
TEXTUAL = frozenset(("format", "format_map", "indent", "replace", *SPREAD))
#: They make an object of every character or word.
PIECES = words("list rsplit split splitlines title wordcount")
#: They make up to twelve characters of one.
ESCAPES = words("e escape forceescape pprint string tojson urlencode")
ENCODINGS = frozenset(("utf-8", "utf8", "ascii", "latin-1"))
#: Digits that `round` is asked for, below 0 or above.
MAX_DIGITS = 300


def foresee(budget: Budget, name: str, value: Any, given: list[Any]) -> None:
    """Pays for what operation `name` walks over; refuses it if it could make too much.

    `value` is what it is applied to, `given` what else it is given.
    """
    before = budget.steps
    if name in SHALLOW and not (name == "count" and given):
        cells = 8 * (1 if name in INSTANT else budget.pass_over(value))
        budget.walk(given)
    else:
        cells = budget.walk(value) + budget.walk(given)
    if name in SORTS:
        budget.step(16 * (budget.steps - before))
    elif name == "sum":
        budget.step(budget.pass_over(value) * cells // 1024)
    elif name in SLOW:
        if cells > MAX_SLOW:
            raise TooMuchError(f"{name} of more than {MAX_SLOW} characters")
        budget.step(4 * cells)
    elif name in PIECES or name in ESCAPES:
        budget.step(cells // 16)
    _check_given(name, given)
    if name in TEXTUAL and not isinstance(value, str | bytes):
        budget.room(48 * cells)
        value = str(value)
    budget.room(_bytes(name, value, given, cells))


def _check_given(name: str, given: list[Any]) -> None:
    if name == "round" and any(abs(number) > MAX_DIGITS for number in _numbers(given)):
        raise TooMuchError("digits that many")
    if name in ("encode", "decode"):
        for text in _texts(given):
            if text.lower() not in ENCODINGS and text not in ("strict", "replace"):
                raise TooMuchError(f"the encoding {text[:40]!r} here")


def _bytes(name: str, value: Any, given: list[Any], cells: int) -> int:
    """Returns the most bytes that an operation can make."""
    numbers, texts = sum(map(abs, _numbers(given))), sum(map(len, _texts(given)))
    if name in WIDE:
        return 8 * (cells + numbers)
    if name in SPREAD:
        return 4 * (1 + cells) * (1 + numbers + texts)
    if name == "indent":
        return 4 * (cells + (1 + _count(value, "\n")) * (4 + numbers + texts))
    if name == "replace" and len(_texts(given)) > 1:
        old, new = _texts(given)[:2]
        return 4 * (cells + _count(value, old) * len(new))
    if name == "join":
        items = given[0] if isinstance(value, str | bytes) and given else value
        separator = len(value) if isinstance(value, str | bytes) else texts
        return 40 * cells + 4 * separator * _length(items)
    if name in ("format", "format_map"):
        return _format_bytes(value, given, cells)
    if name in ("split", "rsplit") and given and isinstance(given[0], str):
        return 4 * cells + 64 * (1 + _count(value, given[0]))
    if name in PIECES:
        return 64 * cells
    return (48 if name in ESCAPES else 16) * cells


def _format_bytes(value: str | bytes, given: list[Any], cells: int) -> int:
    """Returns the same for both kinds of format: fields may repeat what they show, and
    widen it."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    runs = re.findall("[0-9]+", text)
    if any(len(run) > 6 for run in runs):
        raise TooMuchError("a format that wide")
    width = sum(map(int, runs))
    if "*" in text or re.search(r":[^{}]*\{", text):
        width += sum(map(abs, _numbers(given)))
    fields = 1 + text.count("%") + text.count("{")
    return 4 * fields * (10 * cells + width)


def binary(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Pays for an operator, or refuses it; see `foresee`."""
    budget.step()
    if isinstance(left, int | float) and isinstance(right, int | float):
        _number_bits(operator, left, right)
    elif operator == "*":
        text, number = (right, left) if isinstance(left, int) else (left, right)
        width = 4 if isinstance(text, str) else 8
        times = number if isinstance(number, int) else 1
        budget.room(width * budget.pass_over(text) * times)
    elif operator == "%":
        foresee(budget, "format", left, list(right) if _listed(right) else [right])
    elif operator == "+":
        size = budget.pass_over(left) + budget.pass_over(right)
        budget.room(size * (4 if isinstance(left, str) else 8))
    else:
        budget.walk(left)
        budget.walk(right)


def _listed(value: object) -> bool:
    return isinstance(value, list | tuple)


def _number_bits(operator: str, left: float, right: float) -> None:
    bits = [v.bit_length() if isinstance(v, int) else 0 for v in (left, right)]
    if operator == "*":
        check_bits(sum(bits))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        check_bits(bits[0] * min(abs(right), MAX_BITS + 1))


def _numbers(given: list[Any]) -> list[int]:
    flat = [v for g in given for v in (g if isinstance(g, list | tuple) else [g])]
    return [v for v in flat if isinstance(v, int)]


def _texts(given: list[Any]) -> list[str]:
    found: list[str] = []
    for value in given:
        if isinstance(value, str | bytes):
            found.append(value if isinstance(value, str) else value.decode("latin-1"))
        elif isinstance(value, dict):
            found += [text for text in value.values() if isinstance(text, str)]
        elif isinstance(value, list | tuple):
            found += [text for text in value if isinstance(text, str)]
    return found


def _count(value: str | bytes, part: str) -> int:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text.count(part)


def _length(value: object) -> int:
    try:
        return len(value)  # type: ignore[arg-type]
    except TypeError:
        return 1
