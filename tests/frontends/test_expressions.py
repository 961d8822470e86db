"""Expressions: what they mean, and that nothing in one can do harm."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmc.frontends.language.evaluation import Scope, evaluate
from glmc.frontends.language.expressions import parse_expression
from glmc.ir.errors import GlmcError
from support.ranges import examples

CONFIG: dict[str, Any] = {
    "n": 12,
    "zero": 0,
    "ratio": 0.5,
    "on": True,
    "text": "chatglm2",
    "list": ["a", "b"],
    "inner": {"x": 3},
    "nothing": None,
}


def value(text: str, **variables: object) -> object:
    scope = Scope(CONFIG, variables)
    return evaluate(parse_expression(text, "spec.yaml:7"), scope)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("c.n // 5 + 1", 3),
        ("c.n / 8 * 2 ** 3 - 1", 11.0),
        ("-c.n % 5", 3),
        ("c.missing ?? c.nothing ?? 7", 7),
        ("c.zero ?? 7", 0),
        ("c.missing ?? 4 * c.n", 48),
        ("c.missing ?? 6 == 6", True),
        ("c.missing ?? 1 if c.on else 2", 1),
        ("c.missing.deeper.still", None),
        ("c.inner.x", 3),
        ("c.inner['x']", 3),
        ("c.list[-1]", "b"),
        ("'a' in c.list and 'glm2' in c.text", True),
        ("'z' not in c.list and not 'a' not in c.list", True),
        ("'??' + \"|\"", "??|"),
        ("c.on is not null and not c.missing", True),
        ("1 < c.n < 13", True),
        ("1 == true", False),
        ("1 == 1.0", True),
        ("c.on == True", True),
        ("['a'] * 2 + [E]", ["a", "a", 5]),
        ("{'type': 'linear', 'factor': c.n}", {"type": "linear", "factor": 12}),
        ("min(3, 2) + max(1, 2) + abs(-3)", 7),
        ("last(['a', 'b', 'a', 'b'], 'a', 3) + last([1, 2], 2, 9)", 3),
        ("count(['a', 'b', 'a', 'b'], 'a', 3) + count([1, 2], 2, 9)", 3),
        ("count([1, 1], 1, 0) + count([], 1, 4)", 0),
        ("place(['a', 'b', 'a', 'b'], 'b', 1) + place([1, 2], 2, 0)", 4),
        ("entry({'3': {'d': 5}}, 3, ['d']).d", 5),
        ("entry({'3': {'d': 5}}, 2, ['d']).d ?? 7", 7),
        ("entry({'05': {'d': 5}, '11': {'d': 6}}, 5, ['d']).d", 5),
        ("entry({'05': {'d': 5}, '11': {'d': 6}}, 11, ['d']).d", 6),
        ("entry({'00': {'d': 5}}, 0, ['d']).d", 5),
        ("entry({'a0': {'d': 5}}, 'a0', ['d']).d", 5),
        ("entry(null, 2, []) is null", True),
        ("int(c.n * c.ratio) + floor(1.5) + ceil(1.5) + len(c.list)", 11),
        ("sqrt(16) + log(1) + exp(0)", 5.0),
        ("null if c.on else missing_is_never_looked_at", None),
    ],
)
def test_values(text: str, expected: object) -> None:
    assert value(text, E=5) == expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "().__class__",
        "(lambda: 1)()",
        "[x for x in c.list]",
        "c.n.__class__.__mro__",
        "f'{c.n}'",
        "c.n := 3",
        "c.list[0:1]",
        "c.n | 3",
        "c.n @ 3",
        "c.n & 3",
        "~c.n",
        "min(a=1)",
        "min(*c.list)",
        "c.list.append(1)",
        "{**c.inner}",
        "{1: 2}",
        "b'x'",
        "1j",
        "...",
        "await c.n",
        "",
        "(" * 3000 + ")" * 3000,
        "(" * 500 + "1" + ")" * 500,
        "1" + "+1" * 900,
        "\0",
    ],
)
def test_what_is_not_in_the_language(text: str) -> None:
    with pytest.raises(GlmcError, match=r"spec\.yaml:7"):
        value(text)


@pytest.mark.parametrize(
    "text",
    [
        "9 ** 9 ** 9",
        "2 ** 64 ** 2",
        "10.0 ** 300 * 10.0 ** 300",
        "'x' * 10 ** 9",
        "[[0] * 10000] * 10000",
        "'%1000000000d' % 1",
        "1 / 0",
        "(-1) ** 0.5",
        "exp(100000)",
        "log(0)",
        "int('9' * 9000)",
        "c.list[5]",
        "c.inner['y']",
        "c.text.x",
        "c.text < 3",
        "3 in 3",
        "not c.n",
        "c",
        "len(3)",
        "last(3, 1, 1)",
        "count(3, 1, 1)",
        "place(3, 1, 1)",
        "place([1, 2], 2, 1)",
        "place([1, 2], 2, -1)",
        "last([1, 2], 2, 1)",
        "entry(3, 1, [])",
        "entry({'05': {}, '5': {}}, 5, [])",
        "entry({'1': {'e': 5}}, 1, ['d'])",
        "nowhere",
        "nowhere()",
        "c.nothing + 1",
        "true + 1",
    ],
)
def test_what_has_no_value(text: str) -> None:
    with pytest.raises(GlmcError, match=r"spec\.yaml:7: `=.*` has no value"):
        value(text)


def test_an_error_shows_the_expression_and_what_it_saw() -> None:
    with pytest.raises(GlmcError) as error:
        value("E // c.nothing + c.inner.x", E=5)
    message = str(error.value)
    assert "`=E // c.nothing + c.inner.x`" in message
    assert "expected a number, found null" in message
    assert "E = 5" in message
    assert "c.nothing = null" in message


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(GlmcError, match="did you mean 'heads'"):
        value("haeds", heads=3)


def test_keys_are_known_without_evaluating() -> None:
    parsed = parse_expression("c.a ?? c.b.x if c.d else rope(c.e).f", "x:1")
    assert parsed.config_keys == {"a", "b", "d", "e"}
    assert "rope" in parsed.names


ATOMS = st.sampled_from(
    [
        "c.n",
        "c.text",
        "c.list",
        "c.inner",
        "c.nothing",
        "c.ratio",
        "c.on",
        "c.zero",
        "E",
        "3",
        "0",
        "-1",
        "1e308",
        "2.5",
        "'s'",
        "null",
        "true",
        "[1,2]",
        "{'k':1}",
        "unknown",
        "4611686018427387904",
    ]
)
OPERATORS = st.sampled_from(
    [
        "+",
        "-",
        "*",
        "/",
        "//",
        "%",
        "**",
        "??",
        "==",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "and",
        "or",
        "in",
        "is",
        "not_in",
        "is_not",
    ]
).map(lambda operator: operator.replace("_", " "))
NAMES = "min max abs int len sqrt log exp floor ceil last entry"
FUNCTIONS = st.sampled_from(NAMES.split())


def bigger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, OPERATORS, inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(FUNCTIONS, inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        st.tuples(FUNCTIONS, inner).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(inner, inner).map(lambda t: f"{t[0]}[{t[1]}]"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        inner.map(lambda t: f"[{t}, {t}]"),
        inner.map(lambda t: f"(not {t})"),
    )


def has_an_end(text: str) -> None:
    """It has a value, or a sentence says why not."""
    try:
        value(text, E=5)
    except GlmcError as error:
        message = str(error)
    else:
        return
    assert "spec.yaml:7" in message


@examples(300)
@given(st.recursive(ATOMS, bigger, max_leaves=25))
def test_every_expression_ends_soon(text: str) -> None:
    began = time.perf_counter()
    has_an_end(text)
    assert time.perf_counter() - began < 2


@examples(300)
@given(st.text(max_size=60))
def test_every_text_is_read_or_refused(text: str) -> None:
    has_an_end(text)
