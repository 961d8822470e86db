"""Describe a Python function as a tool: its JSON schema, as transformers makes it.

The names and types are those of the signature, the descriptions those of a docstring
in Google's style.
"""

import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from .files import TokenizerError

_SCALARS: dict[Any, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
}
_TYPES: dict[Any, dict[str, Any]] = {
    **{kind: {"type": name} for kind, name in _SCALARS.items()},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}
_SECTION = r"[\n\s]*(?:Returns:|Raises:|\Z)"
_DESCRIPTION = re.compile(r"^(.*?)[\n\s]*(?:Args:|Returns:|Raises:|\Z)", re.DOTALL)
_ARGUMENTS = re.compile(rf"\n\s*Args:\n(.*?){_SECTION}", re.DOTALL)
_RETURNS = re.compile(r"\n\s*Returns:\n\s*(.*?)[\n\s]*(?:Raises:|\Z)", re.DOTALL)
#: "name: what it is", over all lines up to the next name that is not deeper.
_ARGUMENT = re.compile(
    r"(?:^|\n)([ \t]*)(\w+):\s*(.*?)\s*(?=\n(?!\1[ \t])[ \t]*\w+:|\Z)", re.DOTALL
)
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns `{"type": "function", "function": {name, description, parameters,
    return}}`.

    Raises TokenizerError where a parameter has no type hint, no description, or a type
    that JSON does not know.
    """
    name = getattr(function, "__name__", "operation")
    described = (inspect.getdoc(function) or "").strip()
    if not described:
        raise _lacking(name, "a docstring")
    text = _first(_DESCRIPTION, described) or ""
    arguments = _described(_first(_ARGUMENTS, described) or "")
    try:
        parameters, answer = _parameters(function, name)
    except TokenizerError as error:
        raise TokenizerError(f"the function {name} is no tool: {error}") from error
    for key, schema in parameters["properties"].items():
        if key not in arguments:
            raise _lacking(name, f"a description of {key} under Args: in its docstring")
        words = arguments[key]
        if choices := _CHOICES.search(words):
            schema["enum"] = _choices(choices[1], name, key)
            words = words[: choices.start()].strip()
        schema["description"] = words
    made = {"name": name, "description": text.strip(), "parameters": parameters}
    if answer is not None:
        returned = _first(_RETURNS, described)
        made["return"] = answer
        if returned is not None:
            answer["description"] = returned
    return {"type": "function", "function": made}


def _lacking(name: str, what: str) -> TokenizerError:
    return TokenizerError(
        f"the function {name} is no tool: it lacks {what}; write it, or give a JSON "
        "schema instead of the function."
    )


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return None if found is None else found[1]


def _described(section: str) -> dict[str, str]:
    lines = "\n".join(line for line in section.split("\n") if line.strip())
    return {
        name: re.sub(r"\s*\n+\s*", " ", words.strip())
        for _, name, words in _ARGUMENT.findall(lines)
    }


def _choices(text: str, name: str, key: str) -> list[Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _lacking(name, f"choices of {key} that are a JSON list") from error
    if not isinstance(found, list):
        raise _lacking(name, f"choices of {key} that are a JSON list")
    return [c.strip() if isinstance(c, str) else c for c in found]


def _parameters(
    function: Callable[..., Any], name: str
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Returns the schema of the parameters, and of what comes back where that has a
    type."""
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError) as error:
        raise TokenizerError(f"its type hints cannot be read ({error})") from error
    signature = inspect.signature(function).parameters
    own = next(iter(signature), None)
    if own in ("self", "cls") and signature[own].annotation is inspect.Parameter.empty:
        hints.pop(own, None)
    else:
        own = None
    given = [p for key, p in signature.items() if key != own]
    for parameter in given:
        if parameter.annotation is inspect.Parameter.empty:
            raise TokenizerError(f"its parameter {parameter.name} has no type hint")
    properties = {key: _hint(hint) for key, hint in hints.items() if key != "return"}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    required = [p.name for p in given if p.default is inspect.Parameter.empty]
    if required:
        schema["required"] = required
    answer = None
    if "return" in hints:
        # The model does not write it, so a type that JSON lacks is no obstacle.
        try:
            answer = _hint(hints["return"])
        except TokenizerError:
            answer = None
    return schema, answer


def _hint(hint: Any) -> dict[str, Any]:
    """Returns a type hint as a JSON schema."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(args)
    if origin is typing.Literal:
        return _values(args, "a Literal")
    if origin in (list, tuple) and not args:
        return {"type": "array"}
    if origin is list:
        return {"type": "array", "items": _hint(args[0])}
    if origin is tuple:
        if len(args) < 2 or ... in args:
            raise TokenizerError(
                f"it takes {_spelled(hint)}; give list[...] for any number of items"
            )
        return {"type": "array", "prefixItems": [_hint(part) for part in args]}
    if origin is dict:
        rest = {"additionalProperties": _hint(args[1])} if len(args) == 2 else {}
        return {"type": "object", **rest}
    if origin is None and isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _values([member.value for member in hint], f"the Enum {hint.__name__}")
    known = _TYPES.get(hint) if origin is None and _hashable(hint) else None
    if known is None:
        raise TokenizerError(
            f"it takes {_spelled(hint)}, which JSON does not know; take int, float, "
            "str, bool, Enum, Literal, or lists, tuples, dicts and unions of these"
        )
    return dict(known)


def _union(args: Sequence[Any]) -> dict[str, Any]:
    parts = [_hint(part) for part in args if part is not type(None)]
    names = sorted({str(part.get("type")) for part in parts})
    if len(parts) == 1:
        made = parts[0]
    elif all(p.keys() == {"type"} and isinstance(p["type"], str) for p in parts):
        made = {"type": names[0] if len(names) == 1 else names}
    else:
        made = {"anyOf": parts}
    return made | ({"nullable": True} if type(None) in args else {})


def _values(values: Sequence[Any], what: str) -> dict[str, Any]:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise TokenizerError(f"it takes {what}, whose values are not JSON's own")
    kinds = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(values)}


def _spelled(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint)) if isinstance(hint, type) else str(hint)


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
