"""Decide the fate of each key of config.json: consumed, ignored with a reason, taken
for switched off, refused."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from glmc.frontends.language.evaluation import same
from glmc.frontends.language.expressions import Expression
from glmc.frontends.spec import Spec
from glmc.frontends.wording import named, nearest, show
from glmc.ir.errors import ConfigValueError, UnknownKeyError, UnsupportedValueError

_SHOWN = 20
_WILD = frozenset("*?[")
# Values with which a key that no spec knows is taken to say "none of it".
OFF: tuple[object, ...] = (None, False, 0, "", [])


@dataclass(frozen=True)
class KeyFate:
    """The fate of a key of config.json."""

    status: Literal["consumed", "ignored", "off"]
    """``off``: no spec knows the key, and its value says that it does nothing."""
    reason: str
    where: str
    """The spec line that says so, or the option the user gave."""


# Keys that the functions of expressions read, and keys that every spec needs.
READ_BY_FUNCTION = {
    "rope": (
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "partial_rotary_factor",
        "original_max_position_embeddings",
        "max_position_embeddings",
    ),
    "classes": ("architectures", "num_labels", "id2label"),
}
_READ_ALWAYS = {
    "model_type": "identification",
    "architectures": "identification",
    "auto_map": "identification",
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "bos_token_id": "special tokens",
    "eos_token_id": "special tokens",
    "pad_token_id": "special tokens",
}


def account(
    config: Mapping[str, object],
    spec: Spec,
    expressions: Collection[Expression],
    ignored_by_user: Collection[str],
    set_by_user: Collection[str],
    where: str,
) -> dict[str, KeyFate]:
    """Return the fate of every key.

    A key counts as consumed when an expression of the spec mentions it, whether or not
    the values of this config led the evaluation past it. One that nobody knows is off
    if its value is one of ``OFF``; not if the user set it, who expects an effect, nor
    if its name is nearly that of a key that the spec misses.

    Raises:
        UnknownKeyError: names all keys nobody knows and that are not off.
        ConfigValueError: when a key that is read holds NaN or an infinity.
    """
    read = readers(spec, expressions)
    found = {key: _fate(key, spec, read, ignored_by_user) for key in config}
    known = {*read, *spec.expect, *spec.ignore} - config.keys()
    for key in [key for key, fate in found.items() if fate is None]:
        if key not in set_by_user and is_off(config[key]) and not _meant(key, known):
            found[key] = _off(config[key])
    unknown = [key for key, fate in found.items() if fate is None]
    if unknown:
        message = _unknown(unknown, config, known, spec.arch, where)
        raise UnknownKeyError(message, unknown)
    for key, fate in found.items():
        calculated = fate and fate.status == "consumed" and key in read
        if fate and calculated and not _finite(config[key]):
            raise ConfigValueError(
                f"{where}: {named(key)} is {show(config[key])}, and the spec"
                f" {spec.arch!r} reads it ({fate.where}); what is read must be finite."
                " --set gives it another value, and if it has no effect, --ignore-key"
                " leaves it out"
            )
    return {key: fate for key, fate in found.items() if fate}


def is_off(value: object) -> bool:
    """Tell whether a key that nobody knows does nothing with a value."""
    return any(same(value, off) for off in OFF)


def _off(value: object) -> KeyFate:
    reason = f"the spec does not know it, and {show(value)} is taken for off"
    return KeyFate("off", reason, "its value")


def _meant(key: str, known: Collection[str]) -> str | None:
    """Return the key that a misspelt one stands for."""
    return nearest(key, known, likeness=0.85)


def _finite(value: object) -> bool:
    """Tell whether no number in a value is NaN or infinite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, list) or all(map(_finite, value))


def check_expectations(config: Mapping[str, object], spec: Spec, where: str) -> None:
    """Refuse values of keys of which the spec supports only some."""
    for key, expected in spec.expect.items():
        value = config.get(key)
        if not any(same(_named(value), known) for known in expected.values):
            supported = " or ".join(map(show, expected.values))
            wanted = f"supported is {supported}"
            if expected.values == (None,):
                wanted = "which is not supported"
            raise UnsupportedValueError(
                f"{where}: {key} is {show(value)}, {wanted}; {expected.otherwise}"
            )


def _named(value: Any) -> Any:
    """Spell infinities as transformers 5 does, whose JSON is strict: by their names."""
    if isinstance(value, list):
        return [_named(one) for one in value]
    if isinstance(value, float) and math.isinf(value):
        return {"__float__": "Infinity" if value > 0 else "-Infinity"}
    return value


def readers(spec: Spec, expressions: Collection[Expression]) -> dict[str, str]:
    readers = dict(_READ_ALWAYS)
    for expression in expressions:
        for key in expression.config_keys:
            readers.setdefault(key, expression.where)
        for function in expression.names & READ_BY_FUNCTION.keys():
            for key in READ_BY_FUNCTION[function]:
                readers.setdefault(key, f"{expression.where} {function}()")
    for alias, key in spec.aliases.items():
        if key in readers:
            readers.setdefault(alias, f"{spec.arch}: another name for {key}")
    return readers


def _fate(
    key: str,
    spec: Spec,
    readers: Mapping[str, str],
    ignored_by_user: Collection[str],
) -> KeyFate | None:
    if key in ignored_by_user:
        return KeyFate("ignored", "the user said so", f"--ignore-key {key}")
    if key in readers:
        return KeyFate("consumed", "read by the spec", readers[key])
    for name in dict.fromkeys((key, spec.aliases.get(key, key))):
        if name in spec.expect:
            return KeyFate("consumed", "has a supported value", f"{spec.arch}: expect")
        for pattern, reason in spec.ignore.items():
            if covers(pattern, name):
                return KeyFate("ignored", reason, f"{spec.arch}: ignore")
    return None


def covers(pattern: str, key: str) -> bool:
    """Tell whether a pattern is for a key; most are plain names, and compile to
    nothing."""
    return pattern == key or (bool(_WILD & {*pattern}) and fnmatchcase(key, pattern))


def _unknown(
    unknown: list[str],
    config: Mapping[str, object],
    known: Collection[str],
    arch: str,
    where: str,
) -> str:
    first = unknown[:_SHOWN]
    parts = []
    for key in first:
        meant = _meant(key, known)
        hint = f"; did you mean {meant}?" if meant else ""
        parts.append(f"{named(key)} ({show(config[key])}{hint})")
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    keys = "key" if len(unknown) == 1 else "keys"
    flags = " ".join(f"--ignore-key {named(key)}" for key in first)
    return (
        f"{where}: the spec {arch!r} does not know the config {keys}"
        f" {', '.join(parts)}{more}, and a key may change the computation. If it has no"
        f" effect on inference, compile with {flags}"
    )
