"""Give configs one spelling, so that two of them can be compared key by key.

Which keys count, what an absent one stands for and which ropes there are says `reads`:
how the spec of the model reads configs, see `glmc.frontends.build.reads`.
"""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

QUANTISED = ("quantization_config", "compression_config")
#: What the whole model says of itself, whatever its parts are called.
_OF_THE_WHOLE = ("model_type", "architectures", "auto_map")
_ROPE_KEYS = (
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)
#: Ropes that are stretched by the length a model was made for.
_BY_CONTEXT = ("dynamic", "yarn", "longrope", "llama3")

Config = Mapping[str, Any]


def settled(config: Config, reads: Config) -> dict[str, Any]:
    """Flattens a config to all that a model is made from, by dotted keys.

    `reads` is how the spec of the model reads configs, see
    `glmc.frontends.build.reads`. Null values, and values that say the same as none, are
    left out.
    """
    whole = _edited(config, reads)
    whole = _with_part(whole, reads)
    for alias, key in reads["aliases"].items():
        other = whole.pop(alias, None)
        if whole.get(key) is None and other is not None:
            whole[key] = other
    whole = {**reads["defaults"], **whole}
    for key, value in reads["implied"].items():
        if whole.get(key) is None:
            whole[key] = value
    rope = _rope(whole, reads["rope"]) if reads["rope"] else {}
    found: dict[str, Any] = {}
    for key, value in whole.items():
        if _counts(key, value, reads):
            _flatten(key, value, found)
    _flatten("rope", rope, found)
    ignored = reads["ignored_within"]
    return {k: v for k, v in found.items() if not _covered(k, ignored)}


def _edited(config: Config, reads: Config) -> dict[str, Any]:
    """Returns the config with `--set` applied and without the keys of
    `--ignore-key`."""
    result = dict(config)
    for path, value in reads["set"]:
        _put(result, path, value)
    for path in reads["dropped"]:
        _drop(result, path)
    return result


def _put(config: dict[str, Any], path: Sequence[str], value: Any) -> None:
    key, *rest = path
    if rest:
        inner = config.get(key)
        config[key] = dict(inner) if isinstance(inner, Mapping) else {}
        _put(config[key], rest, value)
    else:
        config[key] = value


def _drop(config: dict[str, Any], path: Sequence[str]) -> None:
    key, *rest = path
    if not rest:
        config.pop(key, None)
    elif isinstance(config.get(key), Mapping):
        config[key] = dict(config[key])
        _drop(config[key], rest)


def _with_part(config: dict[str, Any], reads: Config) -> dict[str, Any]:
    """Returns the config of a multimodal model as one of its text part."""
    part = config.get(reads["part"]) if reads["part"] else None
    if not isinstance(part, Mapping):
        return config
    outer = {name: value for name, value in config.items() if name != reads["part"]}
    own = {path[0] for path, _ in reads["set"]}
    stays = {"tie_word_embeddings", *own} & outer.keys()
    inner = {n: v for n, v in part.items() if n not in (*stays, *_OF_THE_WHOLE)}
    return {**outer, **inner}


def _counts(key: str, value: Any, reads: Config) -> bool:
    """Tells whether a key is read by the spec, or by nobody: that may change
    anything, unless its value says that it is off."""
    if key in reads["keys"] or key in reads["expected"]:
        return True
    if key in reads["idle"] or (reads["rope"] and key in _ROPE_KEYS):
        return False
    off = any(same(value, one) for one in reads.get("off", ()))
    return not off and not _covered(key, reads["ignored"])


def _covered(key: str, patterns: Sequence[str]) -> bool:
    return any(pattern == key or fnmatchcase(key, pattern) for pattern in patterns)


def _flatten(key: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _flatten(f"{key}.{name}", inner, found)
    elif value is not None:
        found[key] = value


def _rope(config: Config, read: Sequence[str]) -> dict[str, Any]:
    """Returns the rope in one spelling, from `rope_theta` and `rope_scaling` of old, or
    `rope_parameters`, which may have an entry for each kind of layer."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        return {"parameters": given}
    kinds = {k: v for k, v in given.items() if isinstance(v, Mapping)}
    if kinds:
        each = kinds.items()
        return {kind: _turning(config, entry, read) for kind, entry in each}
    return _turning(config, given, read)


def _turning(config: Config, given: Config, read: Sequence[str]) -> dict[str, Any]:
    """Returns one rope: `type`, `theta`, `partial`, and what the type needs."""
    left_out = ("type", "rope_type", "rope_theta", "mrope_section")
    kind = given.get("rope_type") or given.get("type") or "default"
    found = {k: v for k, v in given.items() if k not in left_out}
    found["type"] = kind = "longrope" if kind == "su" else kind
    found["theta"] = _first(given, config, "rope_theta", 10000.0)
    found["partial_rotary_factor"] = _first(given, config, "partial_rotary_factor", 1.0)
    original = "original_max_position_embeddings"
    found.pop(original, None)
    if kind in _BY_CONTEXT:
        context = config.get("max_position_embeddings")
        found["max_position_embeddings"] = context
        found[original] = _first(config, given, original, context)
    return {key: value for key, value in found.items() if key in read}


def _first(a: Config, b: Config, key: str, default: Any) -> Any:
    values = (a.get(key), b.get(key))
    return next((value for value in values if value is not None), default)


def with_sidecar(config: Config, sidecar: Config) -> Config:
    """Returns the config, completed by hf_quant_config.json where it is silent."""
    said = sidecar.get("quantization")
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    told = any(key in part for part in parts for key in QUANTISED)
    if told or not isinstance(said, Mapping) or not said.get("quant_algo"):
        return config
    return {**config, "quantization_config": {"quant_method": "modelopt", **said}}


def in_one_spelling(
    compiled: Config, found: Config
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gives both an entry of `rope` for each kind of layer, where one has such entries.

    Configs of before have one rope, and keys of their own for other kinds of layers;
    the build knows which these are, and what its spec made of them.
    """
    said = compiled["says"]
    if not _by_kinds(said) and not _by_kinds(found):
        return {**said}, {**found}
    own = {key for keys in compiled["own"].values() for key in keys.values()}
    ours, theirs = (
        {k: v for k, v in one.items() if k not in own} for one in (said, found)
    )
    if not _by_kinds(said) and compiled["ropes"]:
        ours = _without_rope(ours)
        context = {"max_position_embeddings": said.get("max_position_embeddings")}
        each = {
            kind: _turning(context, entry, compiled["rope"])
            for kind, entry in compiled["ropes"].items()
        }
        _flatten("rope", each, ours)
    elif not _by_kinds(found):
        theirs = _without_rope(theirs)
        for key, value in said.items():
            if key.startswith("rope.") and "rope.full_attention." not in key:
                theirs[key] = value
        for key, value in found.items():
            if key.startswith("rope."):
                theirs[key.replace("rope.", "rope.full_attention.")] = value
        for kind, keys in compiled["own"].items():
            theirs |= {f"rope.{kind}.{name}": found.get(k) for name, k in keys.items()}
    return ours, theirs


def _without_rope(config: Config) -> dict[str, Any]:
    return {k: v for k, v in config.items() if not k.startswith("rope.")}


def _by_kinds(config: Config) -> bool:
    return any(k.startswith("rope.") and k.count(".") == 2 for k in config)


def same(a: Any, b: Any) -> bool:
    """Compares as JSON: 1 equals 1.0 and is not true."""
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    return bool(_named(a) == _named(b))


def _named(value: Any) -> Any:
    """Spells infinities by their names, as strict JSON and transformers 5 do."""
    if isinstance(value, list):
        return [_named(one) for one in value]
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return (
        value["__float__"]
        if isinstance(value, dict) and [*value] == ["__float__"]
        else value
    )
