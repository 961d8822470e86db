"""Strings: their methods, and text made from values within bounds."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code.values import Class, Function, HostType, Instance

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine

_SPEC = re.compile(r"(?:.?[<>=^])?[-+ ]?#?0?(\d{0,3})[,_]?(?:\.(\d{1,3}))?[a-zA-Z%]?")
_PERCENT = re.compile(r"%(?:[-+ #0]*)(\d{0,3})(?:\.(\d{1,3}))?([sdifgeGrx%])")
_FIELD = re.compile(r"\{\{|\}\}|\{(\w*)(?:!([rs]))?(?::([^{}]*))?\}")
_MEMBERS = 64


def render(machine: "Machine", value: Any, depth: int = 0) -> str:
    """Write a value as ``str`` would; containers and objects in short."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        machine.meter.step()
        return str(value)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, torch.Tensor):
        return f"<tensor {list(value.shape)}>"
    if isinstance(value, list | tuple | set | frozenset | dict):
        return _container(machine, value, depth)
    if isinstance(value, Instance):
        args = value.names.get("args")
        if isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], str):
            return args[0]
        return f"<{value.cls.name}>"
    if isinstance(value, Class | Function | HostType):
        return f"<{value.name}>"
    return f"<{type(value).__name__}>"


def _container(machine: "Machine", value: Any, depth: int) -> str:
    if depth > 3 or len(value) > _MEMBERS:
        return f"<{type(value).__name__} of {len(value)}>"
    if isinstance(value, dict):
        parts = [
            f"{_repr(machine, k, depth)}: {_repr(machine, v, depth)}"
            for k, v in value.items()
        ]
        return "{" + ", ".join(parts) + "}"
    inner = ", ".join(_repr(machine, item, depth) for item in value)
    if isinstance(value, tuple):
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return f"[{inner}]" if isinstance(value, list) else "{" + inner + "}"


def _repr(machine: "Machine", value: Any, depth: int) -> str:
    machine.meter.step(4)
    if isinstance(value, str):
        return repr(value[:200])
    return render(machine, value, depth + 1)


def formatted(machine: "Machine", value: Any, spec: str) -> str:
    """Compute ``format(value, spec)`` for numbers and strings, with bounded widths."""
    if not spec:
        return render(machine, value)
    found = _SPEC.fullmatch(spec)
    if not found:
        machine.refuse(f"the format {spec[:40]!r} is not read")
    if isinstance(value, bool | int | float | str):
        return str(machine.host(format, value, spec))
    return render(machine, value)


def percent(machine: "Machine", pattern: str, values: Any) -> str:
    """Compute ``pattern % values``, for plain conversions."""
    given = list(values) if isinstance(values, tuple) else [values]

    def one(found: re.Match[str]) -> str:
        if found[3] == "%":
            return "%"
        if not given:
            raise machine.error("TypeError", "not enough arguments for format string")
        value = given.pop(0)
        if not isinstance(value, int | float | str):
            value = render(machine, value)
        return str(machine.host(lambda: found[0] % value))

    if "%" in _PERCENT.sub("", pattern):
        machine.refuse(f"the format {pattern[:40]!r} is not read")
    text = _PERCENT.sub(one, pattern)
    machine.meter.string(len(text))
    return text


def _format(machine: "Machine", pattern: str, *given: Any, **named: Any) -> str:
    counter = iter(range(len(given)))

    def one(found: re.Match[str]) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        name = found[1]
        if name.isdigit() or not name:
            value = machine.host(lambda: given[int(name) if name else next(counter)])
        else:
            value = machine.host(lambda: named[name])
        return formatted(machine, value, found[3] or "")

    rest = _FIELD.sub("", pattern)
    if "{" in rest or "}" in rest:
        machine.refuse("str.format with attributes or subscripts is not read")
    text = _FIELD.sub(one, pattern)
    machine.meter.string(len(text))
    return text


def _join(machine: "Machine", between: str, parts: Any) -> str:
    found = list(machine.iterate(parts))
    if not all(isinstance(part, str) for part in found):
        raise machine.error("TypeError", "str.join takes strings")
    machine.meter.string(sum(map(len, found)) + len(between) * len(found))
    return between.join(found)


def _replace(
    machine: "Machine", value: str, old: str, new: str, count: int = -1
) -> str:
    times = min(len(value) + 1, value.count(old) if old else len(value) + 1)
    machine.meter.string(len(value) + times * len(new))
    return value.replace(old, new, count)


def _split(machine: "Machine", value: str, *given: Any, **named: Any) -> list[str]:
    machine.meter.string(len(value))
    return value.split(*given, **named)


def _simple(name: str) -> Callable[..., Any]:
    method = getattr(str, name)

    def run(machine: "Machine", value: str, *given: Any) -> Any:
        machine.meter.string(len(value))
        return method(value, *given)

    return run


METHODS: dict[str, Callable[..., Any]] = {
    **{
        name: _simple(name)
        for name in (
            "startswith", "endswith", "lower", "upper", "strip", "lstrip", "rstrip",
            "title", "capitalize", "isdigit", "isidentifier", "find", "rfind", "count",
            "index", "removeprefix", "removesuffix", "partition", "rpartition",
            "splitlines", "isalpha", "isnumeric", "islower", "isupper",
        )
    },
    "format": _format,
    "join": _join,
    "replace": _replace,
    "split": _split,
    "rsplit": lambda machine, value, *given: value.rsplit(*given),
}  # fmt: skip
