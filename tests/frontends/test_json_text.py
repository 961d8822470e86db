"""Files that are not the JSON they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmc.frontends.read.json_text import parse_json_object, read_json_object
from glmc.ir.errors import GlmcError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{\n "a": }', "line 2, column 7"),
        (b"[1]", "found a list"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' appears twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "1e999"),
        (b'{"a": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b'{"a": ' * 70 + b"1" + b"}" * 70, "nested"),
        (b'{"a": ' * 100_000, "nested"),
        (b'\xff{"a": 1}', "not UTF-8"),
        (b"", "line 1"),
        (rb'{"a": ["\ud800"]}', "surrogate"),
        (rb'{"\uD800": 1}', "surrogate"),
    ],
)
def test_refused(text: bytes, expected: str) -> None:
    with pytest.raises(GlmcError, match=r"^config\.json") as error:
        parse_json_object(text, "config.json")
    assert expected in str(error.value)


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert parse_json_object(rb'{"a": "\ud83d\ude00"}', "x") == {"a": "\U0001f600"}
    assert parse_json_object(b'\xef\xbb\xbf{"a": 1}', "x") == {"a": 1}


def test_size_and_absence(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(GlmcError, match="does not exist"):
        read_json_object(path, 10)
    path.write_text('{"a": "' + "x" * 100 + '"}')
    with pytest.raises(GlmcError, match="larger than"):
        read_json_object(path, 50)
    assert read_json_object(path, 1000)
    with pytest.raises(GlmcError, match="is a folder"):
        read_json_object(tmp_path, 1000)
