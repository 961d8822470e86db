"""Operations of a template: the most they make, by hand, and limits at their bounds."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from jinja2 import Environment, nodes

from glmc.backends.runtime.tokenizer import jinja
from glmc.backends.runtime.tokenizer.budget import Budget, TooMuchError
from glmc.backends.runtime.tokenizer.growth import binary, foresee
from glmc.backends.runtime.tokenizer.watching import _cost


class Noting(Budget):
    """A budget that notes how many bytes an operation was said to make at most."""

    said = 0

    def room(self, size: int) -> None:
        self.said = size
        super().room(size)


# A text weighs its characters, in a list 8 more; a number 1 and its bits by 3, and 8.
# What an operation is given is a list, which weighs 8.
@pytest.mark.parametrize(
    ("name", "value", "given", "size"),
    [
        ("center", "ab", [9], 8 * (2 + 8 + 10 + 9)),
        ("expandtabs", "a\tb", [4], 4 * (1 + 3 + 8 + 10) * (1 + 4)),
        ("expandtabs", "a\tb", [-4], 4 * (1 + 3 + 8 + 10) * (1 + 4)),
        ("indent", "a\nb", [2], 4 * (3 + 8 + 9 + 2 * (4 + 2))),
        ("indent", "a\nb", ["--"], 4 * (3 + 8 + 10 + 2 * (4 + 2))),
        ("replace", "aXbX", ["X", "yz"], 4 * (4 + 8 + 9 + 10 + 2 * 2)),
        ("replace", b"aXbX", ["X", "yz"], 4 * (4 + 8 + 9 + 10 + 2 * 2)),
        ("replace", "aXbX", ["X", "yz", "q"], 4 * (4 + 8 + 9 + 10 + 9 + 2 * 2)),
        ("join", ["a", "bb"], [", "], 40 * (8 + 9 + 10 + 8 + 10) + 4 * 2 * 2),
        ("join", "ab", [["x", "y"]], 40 * (2 + 8 + 8 + 9 + 9) + 4 * 2 * 2),
        ("split", "a b", [" "], 4 * (3 + 8 + 9) + 64 * 2),
        ("split", "a b", [], 64 * (3 + 8)),
        ("title", "abc", [], 64 * (3 + 8)),
        ("escape", "abc", [], 48 * (3 + 8)),
        ("upper", "abc", [], 16 * (3 + 8)),
        ("upper", "abc", ["rot13"], 16 * (3 + 8 + 13)),
        ("length", "abc", [], 16 * 8),
        ("first", ["abc", "d"], [], 16 * 8),
        ("reverse", ["abc", "d"], [], 16 * 8 * 2),
        ("count", "abca", ["a"], 16 * (4 + 8 + 9)),
        ("format", "%5s", ["ab"], 4 * 2 * (10 * (3 + 8 + 10) + 5)),
        ("format", b"%5s", ["ab"], 4 * 2 * (10 * (3 + 8 + 10) + 5)),
        ("format", "%*d", [-7, 1], 4 * 2 * (10 * (3 + 8 + 10 + 9) + 8)),
        ("format", "{:{}}", [7], 4 * 3 * (10 * (5 + 8 + 10) + 7)),
        ("format", "{}", [7], 4 * 2 * (10 * (2 + 8 + 10))),
        ("replace", ["a"], ["a", "b"], 4 * (8 + 9 + 8 + 9 + 9 + 1)),
    ],
)
def test_what_an_operation_makes_at_most(
    name: str, value: Any, given: list[Any], size: int
) -> None:
    budget = Noting()
    foresee(budget, name, value, given)
    assert budget.said == size


@pytest.mark.parametrize(
    ("operator", "left", "right", "size"),
    [
        ("*", "ab", 3, 4 * 2 * 3),
        ("*", 3, "ab", 4 * 2 * 3),
        ("*", b"ab", 3, 8 * 2 * 3),
        ("*", [1, 2], 3, 8 * 2 * 3),
        ("+", "ab", "c", 4 * 3),
        ("+", [1], [2, 3], 8 * 3),
        ("%", "%5s", "ab", 4 * 2 * (10 * (3 + 8 + 10) + 5)),
        ("%", "%5s", ("ab",), 4 * 2 * (10 * (3 + 8 + 10) + 5)),
        ("-", {1}, {2}, 0),
    ],
)
def test_what_an_operator_makes_at_most(
    operator: str, left: Any, right: Any, size: int
) -> None:
    budget = Noting()
    binary(budget, operator, left, right)
    assert budget.said == size


# A walk pays 1, for a list 4 and its length; C code passes over 256 characters a step.
@pytest.mark.parametrize(
    ("name", "value", "steps"),
    [
        ("upper", "a" * 512, 1 + 2 + 5),
        ("upper", ["a" * 512, "b"], 1 + 4 + 2 + 2 + 5),
        ("upper", {"a": "b"}, 1 + 4 + 2 + 5),
        ("upper", range(9), 1 + 9 + 5),
        ("sort", ["a", "b"], 17 * (7 + 5)),
        ("sum", [1] * 1024, 1029 + 5 + 129 + (8 + 9 * 1024 + 8)),
        ("pprint", "abc", 1 + 5 + 4 * (3 + 8)),
        ("title", "a" * 56, 1 + 5 + 4),
        ("escape", "a" * 56, 1 + 5 + 4),
        ("reverse", [0] * 80, 1 + 10 + 5),
        ("first", [0] * 80, 5),
    ],
)
def test_what_an_operation_takes(name: str, value: Any, steps: int) -> None:
    budget = Budget()
    foresee(budget, name, value, [])
    assert budget.steps == steps


def done(name: str, value: Any, *given: Any) -> Any:
    return lambda: foresee(Budget(), name, value, [*given])


def computed(operator: str, left: Any, right: Any) -> Any:
    return lambda: binary(Budget(), operator, left, right)


def step(count: int) -> Any:
    return lambda: Budget().step(count)


@pytest.mark.parametrize(
    ("just", "beyond", "said"),
    [
        (step(8388608), step(8388609), "8388608 steps"),
        (lambda: Budget().make(1 << 28), lambda: Budget().make(1 + (1 << 28)), "256"),
        (lambda: Budget().room(1 << 28), lambda: Budget().room(1 + (1 << 28)), "that"),
        (done("round", 1.5, 300), done("round", 1.5, 301), "digits"),
        (done("round", 1.5, -300), done("round", 1.5, -301), "digits"),
        (done("encode", "a", "UTF-8"), done("encode", "a", "rot13"), "rot13"),
        (done("decode", b"a", "strict"), done("decode", b"a", "hex"), "hex"),
        (
            done("pprint", "x" * (65536 - 8)),
            done("pprint", "x" * (65537 - 8)),
            "65536 characters",
        ),
        (done("format", "%999999s", 1), done("format", "%9999999s", 1), "wide"),
        (
            computed("*", 1 << 2000, 1 << 2094),
            computed("*", 1 << 2000, 1 << 2095),
            "4096 bits",
        ),
        (computed("**", 2, 2048), computed("**", 2, 2049), "4096 bits"),
        (computed("**", 2.0, 9999), computed("**", -3, -2049), "4096 bits"),
        (computed("*", "x", 1 << 26), computed("*", "x", 1 + (1 << 26)), "large"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_limits_at_their_bounds(just: Any, beyond: Any, said: str) -> None:
    just()
    with pytest.raises(TooMuchError, match=said):
        beyond()


# A body pays 4 and 1 for each node; of branches the dearest; what runs on its own pays
# for itself.
@pytest.mark.parametrize(
    ("text", "steps", "size"),
    [
        ("abc", 4 + 2, sys.getsizeof("abc")),
        ("a" * 600, 4 + 2 + 2, sys.getsizeof("a" * 600)),
        ("{{ x }}", 4 + 2, 0),
        (
            "{% if x %}a{% elif y %}bbb{{ z }}{% else %}c{% endif %}",
            4 + 1 + (4 + 3) + 2,
            sys.getsizeof("bbb"),
        ),
        ("{% for i in x %}abc{% else %}d{% endfor %}", 4 + 3, 0),
        ("{% macro f(a) %}abc{% endmacro %}", 4 + 2, 0),
        ("{% set x = [1, 2] %}", 4 + 5, 64),
        ("{% set x = {'a': 1} %}", 4 + 6, 64 + 100),
    ],
)
def test_what_running_a_body_costs(text: str, steps: int, size: int) -> None:
    body = Environment(autoescape=True).parse(text).body
    assert _cost(body, nodes) == (steps, size)


@pytest.mark.parametrize(
    ("filters", "weighed"),
    [
        ("map('upper') | join", ["A", "B"]),
        ("select('string') | list", ["a", "b"]),
        ("reject('number') | map('upper')", None),
    ],
)
def test_what_a_generator_holds_is_weighed_where_a_filter_takes_it_whole(
    filters: str, weighed: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take one of its values at a time, so that it stays as it is."""
    seen: list[tuple[str, Any]] = []
    monkeypatch.setattr(jinja, "foresee", lambda _, *told: seen.append(told[:2]))
    jinja.render(f"{{{{ ['a', 'b'] | {filters} }}}}", {}, "mine")
    name, value = seen[-1]
    assert filters.endswith(name) or name == "map"
    assert value == weighed if weighed else not isinstance(value, list)
