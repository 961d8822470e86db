"""YAML with positions, and inheritance."""

from __future__ import annotations

import pytest

from glmc.frontends.language.expressions import Expression
from glmc.frontends.language.yaml_tree import merge, position_of, read_tree
from glmc.ir.errors import GlmcError


def test_positions_and_expressions() -> None:
    tree = read_tree("a: 1\nb:\n  c: =c.x + 1\n  d: [1, =c.y]\n", "s.yaml")
    expression = tree["b"]["c"]  # type: ignore[index]
    assert isinstance(expression, Expression)
    assert expression.where == "s.yaml:3"
    assert str(position_of(tree, ["b", "d", 1])) == "s.yaml:4"
    assert str(position_of(tree, ["b", "nowhere"])) == "s.yaml:2"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "s.yaml:3", "already on line 1"),
        ("a:\n  b: 1\n  b: 2\n", "s.yaml:3", "already on line 2"),
        ("a: [1\nb: 2\n", "s.yaml:2", "not YAML"),
        ("a: &x {b: 1}\nc: *x\n", "s.yaml:1", "no anchors"),
        ("1: 2\n", "s.yaml:1", "must be a string"),
        ("- a\n", "s.yaml", "must be a mapping"),
        ("", "s.yaml", "must be a mapping"),
        ("a: !!python/object:os.system x\n", "s.yaml:1", "not YAML"),
        ("a:\n  b: =c.x +\n", "s.yaml:2", "cannot read the expression"),
        ("a: =open('x')()\n", "s.yaml:1", "built-in functions"),
        ("a: \x00\n", "s.yaml", "not YAML"),
    ],
)
def test_mistakes_are_told_with_their_line(text: str, where: str, what: str) -> None:
    with pytest.raises(GlmcError) as error:
        read_tree(text, "s.yaml")
    assert str(error.value).startswith(f"{where}:")
    assert what in str(error.value)


def test_merge() -> None:
    base = read_tree("a: {x: 1, y: 2}\nb: {x: 1}\nc: 3\nd: [1, 2]\n", "base.yaml")
    child = read_tree("a: {y: 3, z: 4}\nb!: {y: 5}\nc: null\nd: [9]\n", "child.yaml")
    merged = merge(base, child)
    assert merged == {"a": {"x": 1, "y": 3, "z": 4}, "b": {"y": 5}, "d": [9]}
    assert str(position_of(merged, ["a", "x"])) == "base.yaml:1"
    assert str(position_of(merged, ["a", "z"])) == "child.yaml:1"
    assert base["c"] == 3


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 100_000,
        "a: " + "{a: " * 100_000,
        "".join(" " * n + f"k{n}:\n" for n in range(300)),
        "a:\n" + "- " * 100_000 + "x",
    ],
    ids=["lists", "mappings", "indented", "dashes"],
)
def test_depth_is_capped_before_a_tree_is_made(text: str) -> None:
    """The C loader recurses, and ends the process where the stack ends."""
    with pytest.raises(GlmcError, match=r"mine\.yaml:\d+: nested more than 64 deep"):
        read_tree(text, "mine.yaml")


@pytest.mark.parametrize("value", ["9" * 5000, "2026-99-99", "2026-01-01 99:00:00"])
def test_scalars_that_stand_for_nothing_are_a_sentence(value: str) -> None:
    with pytest.raises(GlmcError, match=r"mine\.yaml:2: "):
        read_tree(f"b: 1\na: {value}\n", "mine.yaml")
    with pytest.raises(GlmcError, match=r"mine\.yaml:2: "):
        read_tree(f"b: 1\n? {value}\n: 1\n", "mine.yaml")


@pytest.mark.parametrize("value", ["2026-01-01", "!!binary eA==", "2026-1-1 10:00:00"])
def test_scalars_are_numbers_truth_values_and_strings(value: str) -> None:
    with pytest.raises(GlmcError, match=r"mine\.yaml:1: .* quote it"):
        read_tree(f"a: {value}\n", "mine.yaml")
