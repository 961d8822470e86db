"""JSON of a published file: each limit at its boundary, each refusal in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmc.backends.runtime.faults import WeightsError
from glmc.backends.runtime.strict_json import MEGABYTE, parse_object, read_object


def nested(depth: int) -> str:
    """An object with so many objects and lists in one another, itself the first."""
    return '{"a": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize("extra", [0, 1])
def test_a_file_may_be_as_large_as_its_limit(tmp_path: Path, extra: int) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"{}".ljust(2 * MEGABYTE + extra))
    if not extra:
        assert read_object(file, 2 * MEGABYTE) == {}
        return
    with pytest.raises(WeightsError, match="is larger than 2 MB, which no") as refused:
        read_object(file, 2 * MEGABYTE)
    assert refused.value.kind == "large"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read: No such file") as refused:
        read_object(tmp_path / "config.json", 9)
    assert refused.value.kind == "unreadable"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        ('\ufeff{"a": 1}', {"a": 1}),
        (nested(64), json.loads(nested(64))),
        ('{"a": ' + "9" * 100 + "}", {"a": int("9" * 100)}),
        (
            '{"a": -1.5e3, "b": [true, null, "é"]}',
            {"a": -1500.0, "b": [True, None, "é"]},
        ),
    ],
    ids=["empty", "marked", "as deep as may be", "as many digits", "values"],
)
def test_what_may_be_in_it(text: str, value: object) -> None:
    assert parse_object(text.encode(), "x.json") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (nested(65), "nested more than 64 deep"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 101 + "}", "101 digits"),
        ('{"a": 1, "a": 1}', "'a'"),
        ('{"b": {"a": 1, "a": 2}}', "'a'"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1e999}', "1e999"),
        ("[]", "it holds a list"),
        ("3", "it holds a int"),
        ('{"a": "\\ud800"}', "surrogate"),
        ("{", "Expecting"),
    ],
    ids=lambda one: one[:24],
)
def test_what_may_not(text: str, said: str) -> None:
    with pytest.raises(WeightsError) as refused:
        parse_object(text.encode(), "x.json")
    assert str(refused.value).startswith("x.json")
    assert said in str(refused.value)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(WeightsError, match=r"x\.json"):
        parse_object(b'{"a": "\xff"}', "x.json")


def test_python_s_own_numbers_where_they_may_be() -> None:
    found = parse_object(b'{"a": Infinity, "b": -Infinity}', "x.json", finite=False)
    assert found == {"a": float("inf"), "b": -float("inf")}
