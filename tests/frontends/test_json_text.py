"""Files that are not the JSON they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.runtime import strict_json
from glmc.backends.runtime.faults import WeightsError
from glmc.backends.runtime.strict_json import parse_object
from glmc.frontends.read.json_text import parse_json_object, read_json_object
from glmc.ir.errors import GlmcError
from support.ranges import examples

REFUSED = [
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
]


@pytest.mark.parametrize(("text", "expected"), REFUSED)
def test_refused(text: bytes, expected: str) -> None:
    with pytest.raises(GlmcError, match=r"^config\.json") as error:
        parse_json_object(text, "config.json")
    assert expected in str(error.value)


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert parse_json_object(rb'{"a": "\ud83d\ude00"}', "x") == {"a": "\U0001f600"}
    assert parse_json_object(b'\xef\xbb\xbf{"a": 1}', "x") == {"a": 1}


def nested(depth: int) -> bytes:
    """An object with so many objects and lists in one another, itself the first."""
    return b'{"a": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_depth_and_digits_at_their_bounds() -> None:
    assert parse_json_object(nested(64), "x")
    with pytest.raises(GlmcError, match="nested more than 64 deep"):
        parse_json_object(nested(65), "x")
    assert parse_json_object(b'{"a": ' + b"9" * 100 + b"}", "x")
    with pytest.raises(GlmcError, match="101 digits"):
        parse_json_object(b'{"a": ' + b"9" * 101 + b"}", "x")


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


def agreed(data: bytes, finite: bool) -> str | None:
    """Read a text by the rules of glmc and by those of a build, which stands without
    it; return what both found, None where both refused it."""
    found = []
    for parse, error in ((parse_json_object, GlmcError), (parse_object, WeightsError)):
        try:
            found.append(repr(parse(data, "x", finite=finite)))
        except error:
            found.append(None)
    assert found[0] == found[1], data
    return found[0]


@pytest.mark.parametrize("finite", [True, False])
def test_a_build_refuses_what_glmc_refuses(finite: bool) -> None:
    for text, _ in REFUSED:
        passes = not finite and (b"NaN" in text or b"Infinity" in text)
        assert (agreed(text, finite) is not None) == passes, text


@examples(2000)
@given(
    st.dictionaries(
        st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=2), inner, max_size=3)
            ),
        ),
    ),
    st.integers(0, 200),
    st.binary(max_size=3),
    st.booleans(),
)
def test_a_build_reads_what_glmc_reads(
    value: dict[str, object], at: int, cut: bytes, finite: bool
) -> None:
    data = json.dumps(value).encode()
    agreed(data, finite)
    agreed(data[:at] + cut + data[at + len(cut) :], finite)


@pytest.mark.parametrize("rule", ["_depth", "_unique_keys"])
def test_control_a_rule_that_one_of_them_lost_is_seen(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lax = {"_depth": lambda value: 0, "_unique_keys": dict}[rule]
    monkeypatch.setattr(strict_json, rule, lax)
    with pytest.raises(AssertionError):
        [agreed(text, True) for text, _ in REFUSED]
