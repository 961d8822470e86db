"""Values that absent keys stand for, found in expressions alone."""

from __future__ import annotations

from typing import Any

import pytest

from glmc.frontends.build.absent import implied, same_as_none
from glmc.frontends.language.evaluation import Scope
from glmc.frontends.language.expressions import parse_expression


def scopes(layers: int, **config: Any) -> tuple[Scope, list[Scope]]:
    model = Scope(config, {"L": layers})
    return model, [model.bind(i=at) for at in range(layers)]


def parsed(*texts: str) -> list[Any]:
    return [parse_expression(text, "spec.yaml:1") for text in texts]


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["c.a ?? 6"], {"a": 6}),
        (["c.a ?? c.b ?? 6"], {"a": 6, "b": 6}),
        (["c.a ?? c.n ?? 6"], {"a": 3, "n": 6}),
        (["c.a ?? c.n ?? 6", "c.n ?? 7"], {"a": 3}),
        (["7 if c.a is null else c.a"], {"a": 7}),
        (["c.a if c.a is not null else 8"], {"a": 8}),
        (["c.a if c.a != null else 8"], {"a": 8}),
        (["7 if c.a == null else c.a"], {"a": 7}),
        (["c.a[i] if c.a is not null else i % 2"], {"a": [0, 1, 0]}),
        (["7 if c.a is null else c.b"], {}),
        (["c.a if c.a is not 5 else 8"], {}),
        (["c.a < 3"], {}),
        (["1 if c.a else 2"], {"a": False}),
        (["not c.a"], {"a": False}),
        (["c.a and c.n"], {"a": False, "n": False}),
        (["c.a ?? c.n.x"], {}),
    ],
)
def test_what_null_stands_for(texts: list[str], found: dict[str, object]) -> None:
    assert implied(parsed(*texts), *scopes(3, n=3)) == found


KIND = "c.kinds[i] if c.kinds is not null else ('full' if i == 1 else 'sliding')"
FLAG = "c.kinds[i] == 1 if c.kinds is not null else i == 1"
MEMBER = "i in c.kinds if c.kinds is not null else i == 1"


@pytest.mark.parametrize(
    ("text", "said", "same"),
    [
        (KIND, ["sliding", "full", "sliding"], [["sliding", "full", "sliding"]]),
        (FLAG, [0, 1, 0], [[0, 1, 0], [False, True, False]]),
        (MEMBER, [1], [[1]]),
        (MEMBER, None, [None, [1]]),
    ],
)
def test_lists_that_say_the_same_as_none(
    text: str, said: object, same: list[object]
) -> None:
    found = same_as_none(parsed(text), *scopes(3, kinds=said))["kinds"]
    assert all(one in found for one in same)
    assert said in found


@pytest.mark.parametrize(
    ("text", "said"),
    [(KIND, ["full", "full", "full"]), (FLAG, [1, 1, 0]), (MEMBER, [0])],
)
def test_lists_that_say_something_else(text: str, said: object) -> None:
    assert same_as_none(parsed(text), *scopes(3, kinds=said)) == {}


def test_a_key_that_is_read_twice_says_the_same_in_both() -> None:
    one, other = MEMBER, "c.kinds ?? [2]"
    assert same_as_none(parsed(one), *scopes(3, kinds=[1]))
    assert not same_as_none(parsed(one, other), *scopes(3, kinds=[1]))
