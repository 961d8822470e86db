"""Entries of a spec as checked Python values."""

import math

from glmc.frontends.evaluation import Scope, Value, evaluate, seen_values
from glmc.frontends.expressions import Expression
from glmc.frontends.wording import show
from glmc.ir.errors import (
    ConfigValueError,
    ExpressionValueError,
    GlmcError,
    SpecIncompleteError,
)

_MAX_SIZE = 1 << 24


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

    def size(
        self, what: str, given: object, limit: int = _MAX_SIZE, least: int = 1
    ) -> int:
        """A positive integer that no real model exceeds; ``least`` 0 allows zero."""
        value = self.value(given)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            kind = "positive" if least else "non-negative"
            raise self.error(what, given, f"must be a {kind} whole number", value)
        if value > limit:
            raise self.error(what, given, f"must be at most {limit}", value)
        return value

    def optional_size(
        self, what: str, given: object, limit: int = 1 << 31
    ) -> int | None:
        """A positive integer, or None where the entry is null."""
        if self.value(given) is None:
            return None
        return self.size(what, given, limit)

    def optional_number(self, what: str, given: object) -> float | None:
        """A positive finite number, or None where the spec gives null."""
        return None if self.value(given) is None else self.number(what, given)

    def number(self, what: str, given: object) -> float:
        """A positive finite number."""
        value = self.value(given)
        plain = not isinstance(value, bool)
        if plain and isinstance(value, int | float) and 0 < value < math.inf:
            return float(value)
        raise self.error(what, given, "must be a number above 0", value)

    def flag(self, what: str, given: object) -> bool:
        value = self.value(given)
        if not isinstance(value, bool):
            raise self.error(what, given, "must be true or false", value)
        return value

    def text(self, what: str, given: object) -> str:
        value = self.value(given)
        if not isinstance(value, str):
            raise self.error(what, given, "must be a string", value)
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
