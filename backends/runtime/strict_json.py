"""Strict JSON, which a published file must hold before anything believes it."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from .faults import WeightsError, brief

MEGABYTE = 1 << 20
_MAX_DEPTH = 64
_MAX_DIGITS = 100


def read_object(path: Path, limit: int, *, finite: bool = True) -> dict[str, Any]:
    """Reads the JSON object in a file of at most `limit` bytes.

    With `finite=False` it may hold NaN and infinities, as Python writes them. Raises
    WeightsError where it is no such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"{path} cannot be read: {reason}.", "unreadable") from None
    if len(data) > limit:
        raise WeightsError(
            f"{path} is larger than {limit // MEGABYTE} MB, which no such file is.",
            "large",
        )
    return parse_object(data, str(path), finite=finite)


def parse_object(data: bytes, where: str, *, finite: bool = True) -> dict[str, Any]:
    """Parses the JSON object in `data`; messages begin with `where`.

    Raises WeightsError where it is not UTF-8 or JSON, no object, nested absurdly, or
    repeats a key.
    """
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant if finite else float,
            parse_float=_finite,
            parse_int=_whole,
        )
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise _refused(where, "it is nested too deeply") from None
    except ValueError as error:  # of UTF-8 and of JSON, too
        raise _refused(where, str(error)) from None
    if not isinstance(value, dict):
        raise _refused(where, f"it holds a {type(value).__name__}")
    if _depth(value) > _MAX_DEPTH:
        raise _refused(where, f"it is nested more than {_MAX_DEPTH} deep")
    return value


def _refused(where: str, reason: str) -> WeightsError:
    return WeightsError(f"{where} is not a JSON object: {brief(reason, 300)}.", "json")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {brief(twice)!r} appears twice in one object")
    return result


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number that JSON has")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {brief(text)} is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"it has a number of {len(text)} digits")
    return int(text)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [inner for outer in level for inner in _children(outer)]
    return depth


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
