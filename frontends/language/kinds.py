"""The kinds of values that stand in a spec: literals, or expressions that give them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WrapValidator

from glmc.frontends.language.expressions import Expression


@dataclass(frozen=True)
class Takes(BeforeValidator):
    """A check of a value, and in words what passes it."""

    description: str = ""


@dataclass(frozen=True)
class OrExpression(WrapValidator):
    """Lets an expression pass where a check would only take its value."""


def _kind(description: str, *types: type) -> Takes:
    def check(value: object) -> object:
        wrong_bool = isinstance(value, bool) and bool not in types
        if wrong_bool or not isinstance(value, types):
            raise ValueError(f"expected {description}")
        return value

    return Takes(check, description=description)


def _or_expression(description: str, *types: type) -> Takes:
    return _kind(f"{description} or an expression", Expression, *types)


def _constant(value: object) -> object:
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, Expression):
            raise ValueError("expected a value as a config has it, no expression")
        if isinstance(part, dict | list):
            parts += part.values() if isinstance(part, dict) else part
    return value


def _past_expressions(value: Any, check: Callable[[Any], Any]) -> Any:
    return value if isinstance(value, Expression) else check(value)


Integer = Annotated[Any, _or_expression("an integer", int)]
Number = Annotated[Any, _or_expression("a number", int, float)]
Flag = Annotated[Any, _or_expression("true, false", bool)]
Text = Annotated[Any, _or_expression("a string", str)]
List = Annotated[Any, _or_expression("a list", list)]
Formula = Annotated[Any, _kind("an expression (`=...`)", Expression)]
Name = Annotated[str, _kind("a name", str)]
Constant = Annotated[Any, AfterValidator(_constant)]
CHOICE = OrExpression(_past_expressions)
"""Of a ``Literal``: one of its values, or an expression that gives one."""
