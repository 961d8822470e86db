"""Read rotary parameters: two config dialects in, one IR node out.

Follows ``modeling_rope_utils.py`` of transformers 5.23, whose config classes accept
``rope_parameters`` (version 5) and ``rope_theta`` with ``rope_scaling`` (before).
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from glmc.frontends.build.classes import read_classes
from glmc.frontends.build.tracked import Tracked
from glmc.frontends.language.evaluation import Scope, same
from glmc.frontends.wording import show
from glmc.ir import model as m
from glmc.ir.errors import (
    ConfigContradictionError,
    ConfigValueError,
    UnknownKeyError,
    UnsupportedValueError,
)

Params = Mapping[str, Any]

DEFAULT_THETA = 10000.0

# mrope_section spreads the frequencies over time, height and width of an image, and
# in a text these are one and the same position.
_COMMON = frozenset(
    {"rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section"}
)
_YARN = {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}
_KEYS: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset({"factor", "truncate", *_YARN}),
    "longrope": frozenset(
        {"factor", "short_factor", "long_factor", "attention_factor"}
    ),
    "proportional": frozenset({"factor"}),
}
# vLLM multiplies with it; transformers, which decides here, has no such key.
_UNREAD = frozenset({"attn_factor"})
_OLD_TYPES: Mapping[str, str] = {"su": "longrope"}
_NEEDS_ORIGINAL = frozenset({"llama3", "yarn", "longrope"})
_CONTEXT = "max_position_embeddings"
_ORIGINAL = "original_max_position_embeddings"


def read_rope(
    config: Params, kind: str | None = None, others: Collection[str] = ()
) -> dict[str, Any]:
    """Read the rotary parameters of a config, whichever dialect it is in.

    Args:
        config: with aliases and defaults applied.
        kind: the layer type, where ``rope_parameters`` holds one entry for each.
        others: keys beside the rope's own that the spec itself reads.

    Returns:
        ``type``, ``theta``, ``partial`` (share of the head that the rope is made for),
        and whatever the type needs. A ``proportional`` rope is made for the whole head,
        of which ``turning`` is the share that turns.

    Raises:
        GlmcError: on a type or a key that glmc does not know.
    """
    name, given = _given(config, kind)
    rope_type = _type(name, given)
    allowed = _KEYS[rope_type] | _COMMON | _UNREAD | {_ORIGINAL, *others}
    for key, value in given.items():
        if key in allowed or value is None:
            continue
        raise UnknownKeyError(
            f"{name}.{key} is {show(value)}, and rope type {rope_type!r} has no such"
            f" key; if it has no effect, compile with --ignore-key {name}.{key}"
        )
    params = {key: given.get(key) for key in _KEYS[rope_type]}
    params |= {
        "type": rope_type,
        "theta": _first(given, config, "rope_theta", DEFAULT_THETA),
        "partial": _first(given, config, "partial_rotary_factor", 1.0),
        _CONTEXT: config.get(_CONTEXT),
    }
    if rope_type == "proportional":
        params |= {"turning": params["partial"], "partial": 1.0}
    if rope_type in _NEEDS_ORIGINAL:
        # transformers: a top-level key wins over the nested one (Phi3's dialect).
        original = _first(config, given, _ORIGINAL, params[_CONTEXT])
        params[_ORIGINAL] = original
    return params


def scope_of(config: Mapping[str, object], turned: set[str] | None = None) -> Scope:
    """Make the scope of expressions; ``turned`` collects the rope parameters that are
    read."""
    plain = config.of if isinstance(config, Tracked) else config

    def rope(
        kind: str | None = None, others: Sequence[str] = ()
    ) -> Mapping[str, object]:
        return Tracked(read_rope(plain, kind, others), turned)

    def classes() -> int | None:
        return read_classes(plain)

    return Scope(config, functions={"rope": rope, "classes": classes})


def _given(config: Mapping[str, Any], kind: str | None) -> tuple[str, Params]:
    old, new = config.get("rope_scaling"), config.get("rope_parameters")
    if old and new and not same(old, new):
        raise ConfigContradictionError(
            "rope_scaling and rope_parameters are both there and differ; they are two"
            " names for one thing, so one must go (--set rope_scaling=null)"
        )
    name = "rope_scaling" if old else "rope_parameters"
    given = old or new or {}
    if not isinstance(given, Mapping):
        raise ConfigValueError(f"{name} must be an object, found {show(given)}")
    if kind is not None and isinstance(given.get(kind), Mapping):
        return f"{name}.{kind}", given[kind]
    return name, given


def _type(name: str, given: Params) -> str:
    rope_type, old = given.get("rope_type"), given.get("type")
    if rope_type is not None and old is not None and not same(rope_type, old):
        raise ConfigContradictionError(
            f"{name}.rope_type is {show(rope_type)} and {name}.type is {show(old)};"
            " they are two names for one thing and must agree"
        )
    found = rope_type or old or "default"
    found = _OLD_TYPES.get(found, found) if isinstance(found, str) else found
    if not isinstance(found, str) or found not in _KEYS:
        known = ", ".join(_KEYS)
        raise UnsupportedValueError(
            f"{name}: rope type {show(found)} is not one of {known}"
        )
    return found


def _first(a: Params, b: Params, key: str, default: object) -> Any:
    values = (a.get(key), b.get(key))
    return next((value for value in values if value is not None), default)


def rope_node(params: Params, dim: int, **known: Any) -> m.Rope:
    """Make the IR node of ``params``, as ``read_rope`` or a spec's own dict gives them.

    ``known`` are the fields that ``params`` do not give.

    Raises:
        GlmcError: when a number is missing, not positive, or lists do not fit ``dim``.
    """
    rope_type = params.get("type", "default")
    resolve = _RESOLVE.get(rope_type) if isinstance(rope_type, str) else None
    if resolve is None:
        raise UnsupportedValueError(
            f"rope type {show(rope_type)} is not one of {', '.join(_KEYS)}"
        )
    if dim % 2:
        raise ConfigValueError(
            f"{dim} rotary channels cannot be paired; the number must be even"
        )
    theta = _number(params, "theta")
    if theta <= 1:
        raise ConfigValueError(f"rope theta is {theta}; it must be larger than 1")
    return m.Rope(dim=dim, theta=theta, scaling=resolve(params, dim), **known)


def _linear(params: Params, dim: int) -> m.LinearScaling:
    return m.LinearScaling(factor=_number(params, "factor"))


def _dynamic(params: Params, dim: int) -> m.DynamicScaling:
    if dim <= 2:
        raise ConfigValueError(
            f"dynamic rope scaling needs more than {dim} rotary channels"
        )
    return m.DynamicScaling(
        factor=_number(params, "factor"),
        max_positions=_integer(params, _CONTEXT),
    )


def _llama3(params: Params, dim: int) -> m.Llama3Scaling:
    low, high = _number(params, "low_freq_factor"), _number(params, "high_freq_factor")
    if high < low:
        raise ConfigValueError(
            f"rope type 'llama3': high_freq_factor ({high}) must be at least"
            f" low_freq_factor ({low})"
        )
    return m.Llama3Scaling(
        factor=_number(params, "factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=_integer(params, _ORIGINAL),
    )


def _yarn(params: Params, dim: int) -> m.YarnScaling:
    original = _integer(params, _ORIGINAL)
    factor = _factor(params, original)
    attention = params.get("attention_factor")
    if attention is None:
        attention = _yarn_attention(params, factor)
    truncate = params.get("truncate")
    return m.YarnScaling(
        factor=factor,
        beta_fast=_number(params, "beta_fast", 32),
        beta_slow=_number(params, "beta_slow", 1),
        original_max_positions=original,
        attention_factor=_number({"attention_factor": attention}, "attention_factor"),
        truncate=True if truncate is None else bool(truncate),
    )


def _yarn_attention(params: Params, factor: float) -> float:
    def magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if params.get("mscale") and params.get("mscale_all_dim"):
        above, below = _number(params, "mscale"), _number(params, "mscale_all_dim")
        return magnitude(above) / magnitude(below)
    return magnitude(1)


def _longrope(params: Params, dim: int) -> m.LongRopeScaling:
    original = _integer(params, _ORIGINAL)
    attention = params.get("attention_factor")
    if attention is None:
        factor = _factor(params, original)
        grown = 1 + math.log(factor) / math.log(original) if factor > 1 else 1.0
        attention = math.sqrt(grown)
    return m.LongRopeScaling(
        short_factor=_factors(params, "short_factor", dim),
        long_factor=_factors(params, "long_factor", dim),
        original_max_positions=original,
        attention_factor=_number({"attention_factor": attention}, "attention_factor"),
    )


def _proportional(params: Params, dim: int) -> m.ProportionalScaling:
    share = _number(params, "turning", 1.0)
    if share > 1:
        raise ConfigValueError(
            f"rope type 'proportional': partial_rotary_factor is {share}; it is a share"
            " of the head, at most 1"
        )
    factor = _number(params, "factor", 1.0)
    return m.ProportionalScaling(turning=int(share * dim // 2), factor=factor)


def _factor(params: Params, original: int) -> float:
    if params.get("factor") is not None:
        return _number(params, "factor")
    return _integer(params, _CONTEXT) / original


def _factors(params: Params, key: str, dim: int) -> tuple[float, ...]:
    values = params.get(key)
    if not isinstance(values, list) or len(values) != dim // 2:
        found = len(values) if isinstance(values, list) else show(values)
        raise ConfigValueError(
            f"rope type 'longrope': {key} must be a list of {dim // 2} numbers, one for"
            f" each pair of rotary channels, found {found}"
        )
    return tuple(_number({key: value}, key) for value in values)


def _number(params: Params, key: str, default: float | None = None) -> float:
    value = params.get(key)
    if not value and default is not None:
        return float(default)
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or value is None or value <= 0:
        rope_type = params.get("type", "")
        raise ConfigValueError(
            f"rope type {rope_type!r}: {key} must be a number above 0,"
            f" found {show(value)}"
        )
    return float(value)


def _integer(params: Params, key: str) -> int:
    value = _number(params, key)
    if not value.is_integer():
        raise ConfigValueError(f"rope: {key} must be a whole number, found {value}")
    return int(value)


_RESOLVE: Mapping[str, Callable[[Params, int], m.RopeScaling | None]] = {
    "default": lambda params, dim: None,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "proportional": _proportional,
}
