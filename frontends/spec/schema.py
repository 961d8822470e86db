"""Write the spec language as a JSON schema, for editors.

Written from the classes of :mod:`glmc.frontends.spec`. What their validators accept
beyond the declared type (expressions, shorthands such as a bare name for a weight) is
found by asking them: each is tried with one value of every kind that YAML has.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from glmc.frontends import spec as language
from glmc.frontends.language.documented import key_docs
from glmc.frontends.language.expressions import parse_expression
from glmc.frontends.language.kinds import Name
from glmc.frontends.language.sections import Section
from glmc.frontends.spec import Spec, Variant

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

# A value of each kind, and the schema of the kind. In a spec's file a string that
# begins with `=` is an expression, and no other string is.
_EXPRESSION = {"type": "string", "pattern": "^="}
_KINDS: tuple[tuple[Any, JsonSchemaValue], ...] = (
    (True, {"type": "boolean"}),
    (1, {"type": "integer"}),
    (0.5, {"type": "number"}),
    ("text", {"type": "string", "pattern": "^(?!=)"}),
    (parse_expression("c.key", "schema"), _EXPRESSION),
    ([], {"type": "array"}),
)


class SpecFile(Spec):
    """The content of a file: a spec before inheritance, with its variants."""

    extends: Name | None = None
    variants: dict[Name, Variant] = {}  # noqa: RUF012  (pydantic copies it)


class _Generator(GenerateJsonSchema):
    """Schemas of what stands in files, where a null deletes what is inherited."""

    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        inner = super().function_before_schema(schema)
        # Of the two kinds that pydantic-core has, ours take no info argument.
        check: Callable[[Any], Any] = schema["function"]["function"]  # type: ignore[assignment]
        accepted = list(_accepted(check, declared=bool(inner)))
        return _any_of([inner, *accepted] if inner else accepted)

    def function_wrap_schema(
        self, schema: core_schema.WrapValidatorFunctionSchema
    ) -> JsonSchemaValue:
        # Ours let expressions pass by what is wrapped.
        return _any_of([super().function_wrap_schema(schema), _EXPRESSION])

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        if isinstance(made.get("additionalProperties"), dict):
            made["additionalProperties"] = _or_null(made["additionalProperties"])
        return made

    def tagged_union_schema(
        self, schema: core_schema.TaggedUnionSchema
    ) -> JsonSchemaValue:
        # An overlay may leave out the key that tells the members apart.
        return _any_of(super().tagged_union_schema(schema)["oneOf"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def _accepted(
    check: Callable[[Any], Any], *, declared: bool
) -> Iterator[JsonSchemaValue]:
    """Yield the kinds of value a validator takes; with a declared type those it
    converts."""
    for sample, kind in _KINDS:
        try:
            result = check(sample)
        except ValueError:
            continue
        if not declared or result is not sample:
            yield kind


def _any_of(choices: Iterable[JsonSchemaValue]) -> JsonSchemaValue:
    flat: list[JsonSchemaValue] = []
    for choice in choices:
        inner = choice["anyOf"] if choice.keys() == {"anyOf"} else [choice]
        flat += [one for one in inner if one not in flat]
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


def _or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    # An empty schema takes anything already.
    return _any_of([schema, {"type": "null"}]) if schema else schema


def spec_schema() -> dict[str, Any]:
    """Return the JSON schema of a spec's file.

    It says which keys there are and what each takes. That a spec is complete shows
    only after inheritance, so no key is required.
    """
    schema = SpecFile.model_json_schema(schema_generator=_Generator)
    for cls, part in _parts(schema):
        part.pop("required", None)
        docs = key_docs(cls)
        part["properties"] = {
            name: _or_null(value) | ({"description": docs[key]} if key in docs else {})
            for key, value in part.get("properties", {}).items()
            for name in (key, f"{key}!")
        }
    schema["$defs"]["Variant"]["properties"]["spec"] = {"$ref": "#"}
    return {"$schema": _DIALECT, **schema, "title": "A spec of glmc"}


def _parts(schema: dict[str, Any]) -> Iterator[tuple[type[Section], dict[str, Any]]]:
    """Yield each section with its schema."""
    yield SpecFile, schema
    for name, part in schema["$defs"].items():
        yield getattr(language, name), part
