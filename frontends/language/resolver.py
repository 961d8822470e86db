"""Resolve entries of a spec to checked Python values."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from glmc.frontends.language.evaluation import Scope, Value, evaluate, same, seen_values
from glmc.frontends.language.expressions import Expression
from glmc.frontends.language.wanted import Wanted
from glmc.frontends.wording import show
from glmc.ir.activations import ActivationName
from glmc.ir.errors import (
    ConfigValueError,
    ExpressionValueError,
    GlmcError,
    SpecIncompleteError,
)

_MAX_SIZE = 1 << 24
_MAX_OPTIONAL = 1 << 31
"""The limit of entries that may be absent: bounds, such as a window, rather than
sizes."""
_COUNT = Wanted(int, bounds=(("gt", 0),))
_COUNT_OR_NONE = replace(_COUNT, optional=True)
_INDEX = Wanted(int, bounds=(("ge", 0),))
_FACTOR = Wanted(float, bounds=(("gt", 0),))
_FACTOR_OR_NONE = replace(_FACTOR, optional=True)

SPELLINGS: Mapping[tuple[object, ...], Mapping[str, str]] = {
    get_args(ActivationName): {
        "swish": "silu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_accurate": "gelu_tanh",
        "gelu_python_tanh": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu_squared": "relu2",
    }
}
"""Of the choices that configs spell otherwise: their words to ours."""


class Resolver:
    """Literals and expressions of a spec as checked Python values.

    ``what`` names the spec's entry in messages.
    """

    def __init__(self, arch: str, scope: Scope) -> None:
        self.arch, self.scope = arch, scope

    def bind(self, **variables: Value) -> "Resolver":
        return Resolver(self.arch, self.scope.bind(**variables))

    def value(self, given: object) -> Value:
        return evaluate(given, self.scope) if isinstance(given, Expression) else given

    def field(self, what: str, given: object, wanted: Wanted) -> Any:
        """Resolve a field of a node, to one of the types that YAML has.

        Raises:
            GlmcError: says what it must be, what it is, and where that stands.
        """
        value = self.value(given)
        if value is None and wanted.optional:
            return None
        if not wanted.many:
            return self._checked(what, given, value, wanted)
        if not isinstance(value, list | tuple):
            raise self.error(what, given, "must be a list", value)
        each = (self.value(one) for one in value)
        return tuple(self._checked(what, given, one, wanted) for one in each)

    def _checked(self, what: str, given: object, value: Value, wanted: Wanted) -> Any:
        if wanted.choices:
            return self._choice(what, given, value, wanted)
        if wanted.kind in (int, float):
            return self._number(what, given, value, wanted)
        if not isinstance(value, wanted.kind):
            words = {bool: "true or false", str: "a string"}
            raise self.error(what, given, f"must be {words[wanted.kind]}", value)
        return value

    def _choice(self, what: str, given: object, value: Value, wanted: Wanted) -> object:
        spellings = SPELLINGS.get(wanted.choices, {})
        value = spellings.get(value, value) if isinstance(value, str) else value
        for choice in wanted.choices:
            if same(value, choice):
                return choice
        names = [*map(str, wanted.choices), *spellings]
        names += ["null"] if wanted.optional else []
        few = f"{', '.join(names[:-1])} or {names[-1]}"
        expected = few if len(names) < 5 else f"one of {', '.join(names)}"
        raise self.error(what, given, f"must be {expected}", value)

    def _number(
        self, what: str, given: object, value: Value, wanted: Wanted
    ) -> int | float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            fits = wanted.kind is float or isinstance(value, int)
            if fits and math.isfinite(value) and wanted.allows(value):
                if wanted.kind is float:
                    return float(value)
                limit = _MAX_OPTIONAL if wanted.optional else _MAX_SIZE
                if value <= limit:
                    return value
                raise self.error(what, given, f"must be at most {limit}", value)
        raise self.error(what, given, f"must be {wanted.words}", value)

    def size(
        self, what: str, given: object, limit: int = _MAX_SIZE, least: int = 1
    ) -> int:
        """Resolve a positive integer that no real model exceeds; ``least`` 0 allows
        zero."""
        value: int = self.field(what, given, _COUNT if least else _INDEX)
        if value > limit:
            raise self.error(what, given, f"must be at most {limit}", value)
        return value

    def optional_size(self, what: str, given: object) -> int | None:
        """Resolve a positive integer, or None where the entry is null."""
        value: int | None = self.field(what, given, _COUNT_OR_NONE)
        return value

    def optional_number(self, what: str, given: object) -> float | None:
        """Resolve a positive finite number, or None where the spec gives null."""
        value: float | None = self.field(what, given, _FACTOR_OR_NONE)
        return value

    def number(self, what: str, given: object) -> float:
        """Resolve a positive finite number."""
        value: float = self.field(what, given, _FACTOR)
        return value

    def flag(self, what: str, given: object) -> bool:
        value: bool = self.field(what, given, Wanted(bool))
        return value

    def text(self, what: str, given: object) -> str:
        value: str = self.field(what, given, Wanted(str))
        return value

    def error(self, what: str, given: object, expected: str, value: Value) -> GlmcError:
        if not isinstance(given, Expression):
            told = f"{what} {expected}, found {show(value)}"
            return SpecIncompleteError(f"spec {self.arch!r}: {told}", entry=what)
        if given.config_path:
            found = "is missing" if value is None else f"is {show(value)}"
            told = f"{given.config_path} {found}; it {expected}"
            return ConfigValueError(f"{told} [{given.where}: {what}]")
        told = f"{given.where}: {what} {expected}, found {show(value)} from `{given}`"
        return ExpressionValueError(told + seen_values(given, self.scope))
