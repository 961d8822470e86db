"""Sections derived from nodes: what they take, what is made of it, what is refused."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from glmc.frontends.build.making import Maker
from glmc.frontends.language.derived import SECTIONS, Makes
from glmc.frontends.language.documented import field_docs, key_docs
from glmc.frontends.language.evaluation import Scope
from glmc.frontends.language.expressions import parse_expression
from glmc.frontends.language.kinds import Flag
from glmc.frontends.language.resolver import Resolver
from glmc.frontends.language.sections import Section, validate
from glmc.frontends.language.wanted import wanted
from glmc.frontends.spec import Spec
from glmc.frontends.spec.attention import MlaSpec
from glmc.frontends.spec.library import builtin_specs, load_spec
from glmc.ir import model as m
from glmc.ir.errors import GlmcError
from glmc.ir.node import Node


class Inner(Node):
    size: PositiveInt


class Outer(Node):
    count: Annotated[int, Field(ge=2, le=9)] = 2
    index: NonNegativeInt = 0
    limit: PositiveInt | None = None
    factor: PositiveFloat = 1.0
    offset: float = 0.0
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    on: bool = False
    word: Literal["a", "b"] = "a"
    perhaps: Literal[1, 2] | None = None
    name: str = ""
    sizes: tuple[PositiveInt, ...] = ()
    inner: Inner | None = None
    several: tuple[Inner, ...] = ()


class InnerSpec(Section, makes=Makes(Inner)):
    when: Flag = True


class PerhapsSpec(Section, makes=Makes(Inner), unless_null="size"):
    """No node where there is no size."""


class OuterSpec(Section, makes=Makes(Outer, renamed={"on": "enabled"})):
    """A section with a field of each kind."""


def maker(**config: object) -> Maker:
    spec = validate(Spec, load_spec(builtin_specs()["llama"]).tree)
    return Maker(spec, Resolver("test", Scope(config)))


def expression(text: str) -> Any:
    return parse_expression(text, "own.yaml:3")


def made(given: dict[str, object], **config: object) -> Outer:
    node = maker(**config).part("outer", OuterSpec.model_validate(given))
    assert isinstance(node, Outer)
    return node


def test_what_is_left_out_is_what_the_node_says() -> None:
    assert made({}) == Outer()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("count", 9),
        ("index", 0),
        ("limit", None),
        ("limit", 1 << 30),
        ("factor", 2.5),
        ("offset", -1.5),
        ("share", 0.5),
        ("enabled", True),
        ("word", "b"),
        ("perhaps", 2),
        ("name", "x"),
        ("sizes", [1, 2]),
    ],
)
def test_a_literal_and_an_expression_give_the_same(key: str, value: object) -> None:
    field = {"enabled": "on"}.get(key, key)
    wanted = tuple(value) if isinstance(value, list) else value
    for given in (value, expression("c.value")):
        found = getattr(made({key: given}, value=value), field)
        assert found == wanted
        assert type(found) is type(wanted)


def test_a_whole_number_is_a_float_where_one_is_wanted() -> None:
    assert isinstance(made({"factor": 2}).factor, float)


def test_nested_sections_and_lists_of_them() -> None:
    several = [{"size": 1}, {"size": expression("c.n")}]
    node = made({"inner": {"size": 3}, "several": several}, n=7)
    assert node.inner == Inner(size=3)
    assert node.several == (Inner(size=1), Inner(size=7))
    absent = {"size": 3, "when": expression("c.n == 0")}
    assert made({"inner": absent}, n=7).inner is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("count", 1, "a whole number of at least 2 and of at most 9"),
        ("count", True, "a whole number of at least 2 and of at most 9"),
        ("index", -1, "a non-negative whole number"),
        ("limit", 0, "a positive whole number"),
        ("limit", (1 << 31) + 1, f"at most {1 << 31}"),
        ("factor", 0, "a number above 0"),
        ("factor", "two", "a number above 0"),
        ("offset", None, "a number"),
        ("share", 1, "a number above 0 and below 1"),
        ("enabled", 1, "true or false"),
        ("word", "c", "a or b"),
        ("perhaps", 3, "1, 2 or null"),
        ("perhaps", True, "1, 2 or null"),
        ("name", 3, "a string"),
        ("sizes", 3, "a list"),
        ("sizes", [1, 0], "a positive whole number"),
    ],
)
def test_what_an_expression_gives_is_checked(
    key: str, value: object, expected: str
) -> None:
    with pytest.raises(GlmcError) as error:
        made({key: expression("c.value")}, value=value)
    told = str(error.value)
    assert re.match(r"value is .*; it must be ", told) or value is None
    assert f"it must be {expected} [own.yaml:3: outer.{key}]" in told


@pytest.mark.parametrize("key", ["count", "factor", "enabled", "word", "name", "sizes"])
def test_a_literal_of_another_kind_does_not_pass(key: str) -> None:
    with pytest.raises(ValidationError):
        OuterSpec.model_validate({key: {}})


def test_a_section_may_stand_for_no_node() -> None:
    for given, size in ((None, None), (expression("c.n"), None), (3, 3)):
        section = PerhapsSpec.model_validate({"size": given})
        made = maker(n=None).part("perhaps", section)
        assert (made and made.size) == size
    with pytest.raises(ValidationError):
        PerhapsSpec.model_validate({})


def test_a_list_may_hold_expressions() -> None:
    assert made({"sizes": [1, expression("c.n")]}, n=4).sizes == (1, 4)


def test_a_field_that_no_section_can_say_stops_the_import() -> None:
    class Odd(Node):
        table: dict[str, int]

    with pytest.raises(TypeError, match=r"OddSpec cannot derive .* Odd\.table"):

        class OddSpec(Section, makes=Makes(Odd)):
            pass


def test_every_field_of_a_nested_node_is_said_somewhere() -> None:
    """A field of a node with a section is derived, in a slot, or left to code."""
    for node, section in SECTIONS.items():
        if not isinstance(section, type):
            continue
        (makes,) = [one for kind, one in section.made.items() if kind is node]
        for name in node.model_fields.keys() - set(makes.left):
            stored = makes.fields[name].kind in (m.Weight, m.Projection)
            assert stored or makes.key(name) in section.model_fields, (node, name)


def test_a_union_is_what_a_spec_writes_of_it() -> None:
    assert wanted(PositiveFloat | tuple[PositiveFloat, ...]).kind is float
    assert not wanted(PositiveFloat | tuple[PositiveFloat, ...]).many


def test_keys_are_documented_by_their_node_and_by_the_section() -> None:
    docs = key_docs(MlaSpec)
    own, of_node = field_docs(MlaSpec), field_docs(m.Mla)
    assert own
    assert own.items() <= docs.items()
    assert {key for key in docs if key not in own} <= of_node.keys()
    assert len(docs) > len(own)
