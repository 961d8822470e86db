"""Read a published config as a spec sees it."""

import json
import math
from collections.abc import Collection, Iterable, Mapping

from glmc.frontends.build.source import SIDECAR, Source
from glmc.frontends.language.evaluation import same
from glmc.frontends.spec import Spec
from glmc.frontends.wording import show
from glmc.ir.errors import (
    ConfigContradictionError,
    ConfigValueError,
    OptionValueError,
    UnsupportedQuantizationError,
)


def apply_sets(config: Mapping[str, object], sets: Iterable[str]) -> dict[str, object]:
    """Apply ``KEY=VALUE`` changes to a config; values are JSON, else plain strings.

    A dotted key reaches into an object: ``rope_scaling.factor=4.0``.
    """
    result = dict(config)
    for text in sets:
        path, value = parse_set(text)
        _put(result, path, value, text)
    return result


def parse_set(text: str) -> tuple[list[str], object]:
    """Split a ``KEY=VALUE`` into the parts of the key, and the value.

    Raises:
        OptionValueError: when it is not of that form.
    """
    path, found, raw = text.partition("=")
    if not found or not all(path.split(".")):
        raise OptionValueError(f"--set {text}: expected KEY=VALUE, as in num_layers=5")
    return path.split("."), _json_or_text(raw)


def with_sidecar(source: Source) -> dict[str, object]:
    """Read config.json, completed by hf_quant_config.json beside it where it is silent.

    modelopt writes the one or the other, or both, of the same content.
    """
    config = source.read_config()
    beside = source.read_quantization().get("quantization")
    if beside is not None and not isinstance(beside, Mapping):
        raise UnsupportedQuantizationError(
            f"{source.folder / SIDECAR}: quantization is {show(beside)}, not an object"
            " that says how the weights are quantised; correct it, or remove the file"
            " if they are not"
        )
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    told = any(key in part for part in parts for key in _QUANTISED)
    if told or not beside or not beside.get("quant_algo"):
        return config
    return {**config, "quantization_config": {"quant_method": "modelopt", **beside}}


_QUANTISED = ("quantization_config", "compression_config")


def spelled(value: object) -> object:
    """Spell a value of a config in strict JSON: NaN and infinities by their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return {key: spelled(inner) for key, inner in value.items()}
    return [spelled(inner) for inner in value] if isinstance(value, list) else value


def _put(config: dict[str, object], path: list[str], value: object, text: str) -> None:
    key, *rest = path
    if not rest:
        config[key] = value
        return
    inner = config.get(key) or {}
    if not isinstance(inner, Mapping):
        raise OptionValueError(f"--set {text}: {key} is {show(inner)}, not an object")
    copy = dict(inner)
    _put(copy, rest, value, text)
    config[key] = copy


def _json_or_text(raw: str) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw


def without_keys(
    config: Mapping[str, object], names: Collection[str], where: str
) -> dict[str, object]:
    """Return the config as if the keys in ``names`` were not there.

    Raises:
        GlmcError: when there is no such key.
    """
    result = dict(config)
    for name in names:
        key, dot, inner = name.partition(".")
        value = result.get(key)
        if not dot and key in result:
            del result[key]
        elif dot and isinstance(value, Mapping) and inner in value:
            result[key] = {k: v for k, v in value.items() if k != inner}
        else:
            raise OptionValueError(f"--ignore-key {name}: {where} has no such key")
    return result


# What the whole model says of itself, whatever its parts are called.
_OF_THE_WHOLE = ("model_type", "architectures", "auto_map")


def with_text_part(
    config: Mapping[str, object], key: str | None, set_keys: Collection[str], where: str
) -> dict[str, object]:
    """Turn the config of a multimodal model into one of its text part.

    Args:
        config: what the file says.
        key: the entry that holds the text part; where there is none, all is flat.
        set_keys: keys the user has set, which win over those of the text part.
        where: the file, for messages.
    """
    part = config.get(key) if key else None
    if part is None:
        return dict(config)
    if not isinstance(part, Mapping):
        raise ConfigValueError(f"{where}: {key} must be an object, found {show(part)}")
    outer = {name: value for name, value in config.items() if name != key}
    # A flag of the whole says whether its head is tied, whatever the part says.
    stays = {*_OF_THE_WHOLE, "tie_word_embeddings", *set_keys} & outer.keys()
    inner = {n: v for n, v in part.items() if n not in (*stays, *_OF_THE_WHOLE)}
    return {**outer, **inner}


def effective(
    config: Mapping[str, object], spec: Spec, set_keys: Collection[str], where: str
) -> dict[str, object]:
    """Return the config under the names the spec uses, completed by the class's
    defaults.

    A default stands for an absent key, not for one that is null.

    Args:
        config: what the file says, with ``--set`` applied.
        spec: its aliases and defaults.
        set_keys: keys the user has set; they win over their aliases.
        where: the file, for messages.

    Raises:
        GlmcError: when a key and its alias disagree.
    """
    result = dict(config)
    for alias, key in spec.aliases.items():
        given, other = config.get(key), config.get(alias)
        preferred = alias in set_keys and key not in set_keys
        if given is None or (preferred and other is not None):
            result |= {key: other} if other is not None else {}
        elif other is not None and key not in set_keys and not same(given, other):
            raise ConfigContradictionError(
                f"{where} contradicts itself: {key} is {show(given)} and {alias},"
                f" another name for the same, is {show(other)}; say which is right with"
                f" --set {key}=VALUE"
            )
    return {**spec.defaults, **result}


def key_of_set(text: str) -> str:
    """Return the top-level key that a ``--set`` changes."""
    return text.partition("=")[0].partition(".")[0]
