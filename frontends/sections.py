"""What the sections of a spec are made of: kinds of values, and how they are checked.

Values are literals or expressions (``Integer`` is "an int or an expression that gives
one").
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from glmc.frontends.expressions import Expression
from glmc.frontends.yaml_tree import Branch, position_of
from glmc.ir.errors import SpecKeyError


@dataclass(frozen=True)
class Takes(BeforeValidator):
    """A check of a value, and in words what passes it."""

    description: str = ""


def _kind(description: str, *types: type) -> Takes:
    def check(value: object) -> object:
        wrong_bool = isinstance(value, bool) and bool not in types
        if wrong_bool or not isinstance(value, types):
            raise ValueError(f"expected {description}")
        return value

    return Takes(check, description=description)


def _or_expression(description: str, *types: type) -> Takes:
    return _kind(f"{description} or an expression", Expression, *types)


Integer = Annotated[Any, _or_expression("an integer", int)]
Number = Annotated[Any, _or_expression("a number", int, float)]
Flag = Annotated[Any, _or_expression("true, false", bool)]
Text = Annotated[Any, _or_expression("a string", str)]
Formula = Annotated[Any, _kind("an expression (`=...`)", Expression)]
Name = Annotated[str, _kind("a name", str)]


class Section(BaseModel):
    """A part of a spec: closed, so that a misspelt key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True
    )


def from_name(value: object) -> object:
    """Before validation: a bare name is a section of which only that is said."""
    return {"name": value} if isinstance(value, str | Expression) else value


SectionT = TypeVar("SectionT", bound=Section)


def validate(kind: type[SectionT], tree: Branch, key: str = "") -> SectionT:
    """A typed section; ``key`` is where in the spec it stands, for messages.

    Raises:
        GlmcError: names file, line, key, what was found and what is expected.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
    path = _real_path(tree, first["loc"])
    name = ".".join(map(str, [key, *path] if key else path))
    raise SpecKeyError(f"{position_of(tree, path)}: {name}: {_complaint(dict(first))}")


def _real_path(tree: Branch, loc: tuple[str | int, ...]) -> list[str | int]:
    """pydantic's location without the names of union members, which no file holds."""
    path: list[str | int] = []
    node: Any = tree
    for step in loc:
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            if step is not loc[-1]:
                continue
        path.append(step)
    return path


def _complaint(error: Mapping[str, Any]) -> str:
    match error["type"]:
        case "missing":
            return "this key is required and missing"
        case "extra_forbidden":
            return "no such key in the spec language at this place"
        case "union_tag_not_found":
            return f"the key {error['ctx']['discriminator']} is required and missing"
        case "union_tag_invalid":
            of, tag = error["ctx"], error["ctx"]["tag"]
            tags = of["expected_tags"].replace("'", "")
            return f"the key {of['discriminator']} must be one of {tags}, found {tag!r}"
        case "value_error":
            return f"{error['ctx']['error']}, found {error['input']!r}"
    message = str(error["msg"]).replace("Input should be", "expected")
    return f"{message}, found {error['input']!r}"


def expressions_in(value: object) -> Iterator[Expression]:
    """Every expression of a spec's tree, or of a part of a typed spec, in order."""
    if isinstance(value, Expression):
        yield value
    elif isinstance(value, Section):
        for _, inner in value:
            yield from expressions_in(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from expressions_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from expressions_in(inner)
