"""Strict JSON, which a published file must be before anything believes it."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from glmc.ir.errors import FileTooLargeError, FileUnreadableError, JsonError

MEGABYTE = 1 << 20
_MAX_DEPTH = 64
_MAX_DIGITS = 100


def read_json_object(
    path: Path, limit: int, *, finite: bool = True
) -> dict[str, object]:
    """Read the JSON object in a file of at most ``limit`` bytes.

    Raises:
        GlmcError: when the file is missing, too large, not JSON, not an object, nested
            absurdly, repeats a key, or, if it must be ``finite``, holds NaN or an
            infinity, which Python writes.
    """
    return parse_json_object(read_bytes(path, limit), str(path), finite=finite)


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a file of at most ``limit`` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise FileUnreadableError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise FileUnreadableError(f"{path} is a folder, not a file") from None
    except OSError as error:
        raise FileUnreadableError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise FileTooLargeError(
            f"{path} is larger than {limit // MEGABYTE} MB, which no such file is;"
            " it is not what its name says"
        )
    return data


def parse_json_object(
    data: bytes, where: str, *, finite: bool = True, depth: int = _MAX_DEPTH
) -> dict[str, object]:
    """Parse the JSON object in ``data``, at most ``depth`` deep; errors begin with
    ``where``."""
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant if finite else float,
            parse_float=_finite,
            parse_int=_whole,
        )
    except UnicodeDecodeError as error:
        raise JsonError(f"{where} is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise JsonError(f"{where} is not JSON: {error.msg} at {place}") from None
    except RecursionError:
        raise JsonError(f"{where} is nested too deeply to be real") from None
    except ValueError as error:
        raise JsonError(f"{where} is refused: {error}") from None
    if not isinstance(value, dict):
        found = type(value).__name__
        raise JsonError(f"{where} must hold a JSON object, found a {found}")
    if _depth(value) > depth:
        raise JsonError(f"{where} is nested more than {depth} deep")
    if b"\\ud" in data.lower() and not _encodable(value):
        raise JsonError(f"{where} has a string with half a surrogate pair, not text")
    return value


def _encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} appears twice in one object")
    return result


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number that JSON has")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text} is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"it has a number of {len(text)} digits")
    return int(text)


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [inner for outer in level for inner in _children(outer)]
    return depth


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
