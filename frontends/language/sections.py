"""The base of a spec's sections: closed records, derived from nodes of the Model."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from glmc.frontends.language.derived import SECTIONS, Makes, derive
from glmc.frontends.language.expressions import Expression
from glmc.frontends.language.yaml_tree import Branch, position_of
from glmc.ir.errors import SpecKeyError
from glmc.ir.node import Node


class Section(BaseModel):
    """A part of a spec: closed, so that a misspelt key is an error.

    ``makes`` says which node it becomes, whose fields it then has, and with
    ``unless_null`` a field that is null where there is no such node.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True
    )
    made: ClassVar[Mapping[type[Node], Makes]] = {}
    null: ClassVar[str | None] = None

    def __init_subclass__(
        cls, makes: Makes | tuple[Makes, ...] = (), unless_null: str | None = None
    ) -> None:
        if isinstance(makes, Makes):
            makes = (makes,)
        if not makes:
            return
        cls.made, cls.null = {one.node: one for one in makes}, unless_null
        derive(cls, makes)
        if makes[0].only is None and not makes[0].partial:
            SECTIONS.setdefault(makes[0].node, cls)


def from_name(value: object) -> object:
    """Turn a bare name, before validation, into a section with only that name."""
    return {"name": value} if isinstance(value, str | Expression) else value


SectionT = TypeVar("SectionT", bound=Section)


def validate(kind: type[SectionT], tree: Branch, key: str = "") -> SectionT:
    """Validate a tree as a typed section; ``key`` is its place in the spec, for
    messages.

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
    """Return pydantic's location without the names of union members, which no file
    holds."""
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
    """Yield every expression of a spec's tree, or of a part of a typed spec, in
    order."""
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
