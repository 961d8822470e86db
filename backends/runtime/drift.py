"""Compare the config of a build with that of a checkpoint: do they describe one model?

`compiled.json` in a build holds what its config said of everything the model was made
from, and how to read another config: which keys count, what an absent one stands for.
Needs no torch; `glmc check` asks here too.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from .faults import WeightsError
from .folders import Files, FolderFiles
from .strict_json import MEGABYTE, read_object
from .wishes import defaults, unheard

COMPILED = "compiled.json"
#: Files beside the weights that are compared.
DESCRIPTIONS = ("config.json", "generation_config.json", "hf_quant_config.json")
_LIMIT = 8 * MEGABYTE
_LISTED = 8
_QUANTISED = ("quantization_config", "compression_config")
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
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")

Config = Mapping[str, Any]


class Difference(NamedTuple):
    """A key of the config, and its values; None where it is not there."""

    key: str
    compiled: Any
    found: Any

    def __str__(self) -> str:
        return (
            f"{self.key} is {_shown(self.found)}, compiled was {_shown(self.compiled)}"
        )


class Drift(NamedTuple):
    """The differences of a checkpoint's config to the one that was compiled."""

    where: str
    changed: Sequence[Difference] = ()
    """Keys that the model is made from."""
    tokens: Sequence[Difference] = ()
    """Ids at which generation begins, ends and pads."""
    unheard: Mapping[str, Any] = {}
    """Keys of generation_config.json that `generate` does not obey by itself."""

    def refusal(self) -> str:
        """Returns the sentence for what was changed."""
        told = "; ".join(map(str, self.changed[:_LISTED]))
        more = len(self.changed) - _LISTED
        rest = f"; and {more} more" if more > 0 else ""
        return (
            f"{self.where} is not the config that this build was compiled from: {told}"
            f"{rest}. The build computes what was compiled. Compile the model again "
            "from this config, or go on all the same with allow_config_drift=True "
            "(--allow-config-drift)."
        )

    def notes(self) -> Iterator[str]:
        """Yields sentences for what changes no logits: other tokens, and wishes
        unheard."""
        if self.tokens:
            told = "; ".join(map(str, self.tokens))
            yield (
                f"{self.where} has other special tokens than the build: {told}. "
                "generate() goes by what was compiled unless it is told ids."
            )
        if self.unheard:
            told = ", ".join(f"{k}={_shown(v)}" for k, v in self.unheard.items())
            yield (
                f"generation_config.json beside {self.where} asks for {told}, which "
                "generate() does not do."
            )


def compiled_beside(file: str | None) -> dict[str, Any] | None:
    """Reads `compiled.json` of the build that a module lies in; None where it has
    none."""
    path = Path(file or "").with_name(COMPILED)
    return read_object(path, _LIMIT) if file and path.is_file() else None


def refuse_drift(file: str | None, folders: Sequence[Path], allowed: bool) -> None:
    """Refuses folders whose config is another than that of the build in which `file`
    lies, or with `allowed` warns; warns of what `generate` would do otherwise.

    Of several configs the last one counts, as of several tensors.

    Raises WeightsError, of the kind "config".
    """
    compiled = compiled_beside(file)
    if compiled is None:
        return
    found = drift(compiled, the_last([FolderFiles(one) for one in folders]))
    for note in found.notes():
        warnings.warn(note, stacklevel=4)
    if found.changed and allowed:
        warnings.warn(found.refusal(), stacklevel=4)
    elif found.changed:
        raise WeightsError(found.refusal(), "config")


def the_last(places: Sequence[Files]) -> Files:
    """Returns the last of several places that has a config, or else the first."""
    having = [files for files in places if files.has("config.json")]
    return having[-1] if having else places[0]


def drift(compiled: Config, files: Files) -> Drift:
    """Compares the config beside a checkpoint; no differences where there is none.

    Raises WeightsError where one of the two files is not to be read.
    """
    path = files.local("config.json")
    where = files.at("config.json")
    if path is None:
        return Drift(where)
    plain = read_object(path, _LIMIT, finite=False)
    generation = _generation(files)
    config = with_sidecar(plain, _beside(files, "hf_quant_config.json"))
    try:
        changed = differences(compiled, settled(config, compiled))
        tokens = [
            Difference(key, ours, theirs)
            for key, ours in compiled["tokens"].items()
            if ours != (theirs := token_ids(config, generation).get(key))
        ]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{COMPILED} of the build cannot be held against {where} "
            f"({type(error).__name__}: {error}); compile the model again.",
            "config",
        ) from None
    return Drift(where, changed, tokens, unheard(generation))


def _generation(files: Files) -> Config:
    """Reads generation_config.json, and checks that `generate` can obey its values."""
    name = "generation_config.json"
    found = _beside(files, name)
    try:
        defaults(found, files.at(name))
    except ValueError as error:
        raise WeightsError(str(error), "config") from None
    return found


def with_sidecar(config: Config, sidecar: Config) -> Config:
    """Returns the config, completed by hf_quant_config.json where it is silent."""
    said = sidecar.get("quantization")
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    told = any(key in part for part in parts for key in _QUANTISED)
    if told or not isinstance(said, Mapping) or not said.get("quant_algo"):
        return config
    return {**config, "quantization_config": {"quant_method": "modelopt", **said}}


def token_ids(config: Config, generation: Config) -> dict[str, Any]:
    """Returns the special tokens, of generation_config.json where it has them."""
    found = {}
    for key in _TOKENS:
        value = generation.get(key)
        value = config.get(key) if value is None else value
        many = value if isinstance(value, list) else [value]
        ids = [one for one in many if one is not None and one != -1]
        found[key] = ids or None
    return found


def differences(compiled: Config, found: Config) -> list[Difference]:
    """Returns the keys on which two settled configs do not agree, in their order."""
    expected = compiled["expected"]
    said, found = _in_one_spelling(compiled, found)
    keys = [*said, *(key for key in found if key not in said)]
    return [
        Difference(key, said.get(key), found.get(key))
        for key in keys
        if not _same(said.get(key), found.get(key))
        and not _both(expected.get(key, ()), said.get(key), found.get(key))
        and not _cut(compiled, said.get(key), found.get(key))
    ]


def _in_one_spelling(
    compiled: Config, found: Config
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gives both an entry of `rope` for each kind of layer, where one has such entries.

    Configs of before have one rope, and keys of their own for other kinds of layers;
    the build knows what its spec made of them.
    """
    said, ropes, read = compiled["says"], compiled["ropes"], compiled["rope"]
    ours, theirs = (_without_rope(one) for one in (said, found))
    if _by_kinds(found) and not _by_kinds(said) and ropes:
        context = {"max_position_embeddings": said.get("max_position_embeddings")}
        each = {k: _turning(context, entry, read) for k, entry in ropes.items()}
        _flatten("rope", each, ours)
        return ours, {**found}
    if _by_kinds(said) and not _by_kinds(found):
        rope = {key: value for key, value in said.items() if key not in ours}
        own = {key: value for key, value in found.items() if key not in theirs}
        whole = {k.replace("rope.", "rope.full_attention."): v for k, v in own.items()}
        others = {k: v for k, v in rope.items() if "rope.full_attention." not in k}
        return {**said}, {**theirs, **whole, **others}
    return {**said}, {**found}


def _without_rope(config: Config) -> dict[str, Any]:
    return {k: v for k, v in config.items() if not k.startswith("rope.")}


def _by_kinds(config: Config) -> bool:
    return any(k.startswith("rope.") and k.count(".") == 2 for k in config)


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
    off = any(_same(value, one) for one in reads.get("off", ()))
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


def _same(a: Any, b: Any) -> bool:
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


def _cut(compiled: Config, a: Any, b: Any) -> bool:
    """Tells whether one list begins the other, where --set left out layers."""
    if not compiled["set"] or not (isinstance(a, list) and isinstance(b, list)):
        return False
    count = min(len(a), len(b))
    return count > 0 and a[:count] == b[:count]


def _both(values: Sequence[Any], a: Any, b: Any) -> bool:
    """Tells whether two values are among those that say the same."""
    return all(any(_same(one, value) for value in values) for one in (a, b))


def _beside(files: Files, name: str) -> Config:
    path = files.local(name)
    return {} if path is None else read_object(path, _LIMIT, finite=False)


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
