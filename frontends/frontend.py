"""The frontend's entry point: load the named model, with its provenance."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glmc.frontends.build.builder import build_model
from glmc.frontends.build.config import (
    apply_sets,
    effective,
    key_of_set,
    parse_set,
    with_sidecar,
    with_text_part,
    without_keys,
)
from glmc.frontends.build.fates import KeyFate, account, check_expectations
from glmc.frontends.build.provenance import SpecLine, spec_lines
from glmc.frontends.build.reads import Reading
from glmc.frontends.build.rope import scope_of
from glmc.frontends.build.source import Source
from glmc.frontends.build.tokens import read_tokens
from glmc.frontends.build.tracked import Tracked
from glmc.frontends.build.truncation import cut_lists, waive_left_out
from glmc.frontends.language.evaluation import Scope, seen_values
from glmc.frontends.language.resolver import Resolver
from glmc.frontends.language.sections import validate
from glmc.frontends.language.yaml_tree import Branch, position_of
from glmc.frontends.read.auto_map import AutoClass, read_auto_map
from glmc.frontends.spec import Spec
from glmc.frontends.spec.library import SpecFile, architectures, identify, load_spec
from glmc.frontends.spec.namesakes import namesake
from glmc.frontends.spec.variants import choose_variant
from glmc.frontends.wording import listed, show
from glmc.ir import model as m
from glmc.ir.errors import (
    ConfigContradictionError,
    ForeignClassError,
    GlmcError,
    SpecIncompleteError,
    UnknownKeyError,
    UnsupportedValueError,
)

_DTYPES: Mapping[str, m.DType] = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
}

_LOOKED_UP = 8
"""Unknown keys of a config that other specs are asked about."""


@dataclass(frozen=True)
class LoadedModel:
    """A model and how it came to be."""

    model: m.Model
    source: Source
    spec: str
    variant: str | None
    verified: str | None
    """The implementation the spec was compared with; None: none yet."""
    spec_files: tuple[SpecFile, ...]
    config: Mapping[str, object]
    """config.json with ``--set`` applied, and with its text part at the top."""
    keys: Mapping[str, KeyFate]
    """The fate of each key of ``config``."""
    assumed: Mapping[str, object]
    """Class defaults that stood for absent keys."""
    auto_map: tuple[AutoClass, ...]
    lines: Mapping[str, SpecLine]
    """The entries of the spec, and their places."""
    unverified: str | None
    """The reason why the spec was not compared with another implementation, if it has
    not."""
    caveat: str | None
    """The limits of a spec that was compared."""
    quantization: Literal["rows", "published"] | None
    """The format of quantised checkpoints that the spec knows."""
    reading: Reading
    """The spec with what it was evaluated with."""


def load_model(
    source: Source,
    *,
    ignore_keys: Collection[str] = (),
    variant: str | None = None,
    spec_path: Path | None = None,
    sets: Sequence[str] = (),
) -> LoadedModel:
    """Load the model a config describes.

    Args:
        source: where config.json lies, from ``resolve_source``.
        ignore_keys: config keys to disregard though no spec knows them.
        variant: the spec's variant, where the config cannot tell.
        spec_path: a spec of the user's own instead of the built-in ones.
        sets: ``KEY=VALUE`` changes to the config.

    Raises:
        GlmcError: when the config is malformed, unknown, contradictory, or has keys
            whose meaning glmc does not know.
    """
    where = source.where
    config = apply_sets(with_sidecar(source), sets)
    visible = without_keys(config, ignore_keys, where)
    found = load_spec(spec_path) if spec_path else identify(visible, where)
    chosen = choose_variant(found, scope_of(visible), variant, where)
    spec = validate(Spec, chosen.tree)
    classes = read_auto_map(visible.get("auto_map"), where)
    _check_classes(spec, visible, classes, where)
    set_keys = [key_of_set(text) for text in sets]
    config = with_text_part(config, spec.text_in, set_keys, where)
    visible = with_text_part(visible, spec.text_in, set_keys, where)
    published = _published(source, ignore_keys, variant, spec_path) if sets else None
    if published:
        scope = scope_of(effective(visible, spec, set_keys, where))
        count = Resolver(spec.arch, scope).size("layers", spec.layers)
        config = cut_lists(config, published.layers, count, set_keys)
        visible = cut_lists(visible, published.layers, count, set_keys)
    full = effective(visible, spec, set_keys, where)
    seen, turned = Tracked(full), set[str]()
    scope = scope_of(seen, turned)
    _check_refusals(spec, scope, where)
    check_expectations(full, spec, where)
    try:
        keys = account(config, spec, chosen.expressions, ignore_keys, set_keys, where)
    except UnknownKeyError as error:
        raise _by_another_name(error, config, sets, chosen.tree, where) from None
    generation = source.read_generation_config()
    tokens = read_tokens(visible, generation, where)
    dtype = _dtype(visible, where)
    try:
        model = build_model(spec, scope, dtype, tokens)
    except SpecIncompleteError as error:
        if error.entry:
            error.within(str(position_of(chosen.tree, error.entry.split("."))))
        raise error.within(where) from None
    except GlmcError as error:
        raise error.within(where) from None
    return LoadedModel(
        model=waive_left_out(model, published) if published else model,
        source=source,
        spec=found.name,
        variant=chosen.name,
        verified=spec.verified or None,
        spec_files=found.files,
        config=config,
        keys=keys,
        assumed={k: spec.defaults[k] for k in spec.defaults if k not in visible},
        auto_map=classes,
        unverified=None if spec.verified else spec.caveat or "no test compares it",
        caveat=spec.caveat if spec.verified else None,
        lines=spec_lines(chosen.tree, config),
        quantization=spec.quantization.format if spec.quantization else None,
        reading=Reading(
            spec=spec,
            expressions=chosen.expressions,
            scope=scope_of(full),
            read=frozenset(seen.seen),
            turned=frozenset(turned),
            published=with_sidecar(source),
            generation=generation,
            sets=tuple(parse_set(text) for text in sets),
            ignored=tuple(ignore_keys),
        ),
    )


def _by_another_name(
    error: UnknownKeyError,
    config: Mapping[str, object],
    sets: Sequence[str],
    tree: Branch,
    where: str,
) -> UnknownKeyError:
    """Return the error, with what this spec calls a key that other models read; that
    alone where a ``--set`` is to blame."""
    for text in sets:
        key = key_of_set(text)
        other = namesake(key, tree) if key in error.keys else None
        if other:
            return UnknownKeyError(
                f"{where}: --set {text} would have no effect, as this model's spec"
                f" reads no {key}; what other models call {key} is {other} here:"
                f" --set {other}{text.removeprefix(key)}",
                error.keys,
            )
    others = {key: namesake(key, tree) for key in error.keys[:_LOOKED_UP]}
    told = [f"{k} is {o} here" for k, o in others.items() if o and o not in config]
    if not told:
        return error
    said = f"{error}. What other models call {', '.join(told)}, which this config lacks"
    return UnknownKeyError(said, error.keys)


def _published(
    source: Source,
    ignore_keys: Collection[str],
    variant: str | None,
    spec_path: Path | None,
) -> m.Model | None:
    """Load the model without ``--set``; None where the config is refused without it."""
    try:
        loaded = load_model(
            source, ignore_keys=ignore_keys, variant=variant, spec_path=spec_path
        )
    except GlmcError:
        return None
    return loaded.model


def _check_classes(
    spec: Spec,
    config: Mapping[str, object],
    classes: tuple[AutoClass, ...],
    where: str,
) -> None:
    """Refuse a config whose published classes are not those the spec describes."""
    known = spec.match.architectures + spec.match.borrowed_architectures
    declared = architectures(config, where)
    mapped = tuple(c.name for c in classes if c.role == "AutoModelForCausalLM")
    for key, names in (("architectures", declared), ("auto_map", mapped)):
        if known and names and not set(names) & set(known):
            raise ForeignClassError(
                f"{where}: {key} names {listed(names)}, and the spec {spec.arch!r}"
                f" describes {', '.join(known)}. If the computation is the same,"
                f" compile with --ignore-key {key}"
            )


def _check_refusals(spec: Spec, scope: Scope, where: str) -> None:
    resolve = Resolver(spec.arch, scope)
    for name, refusal in spec.refuse.items():
        if resolve.flag(f"refuse.{name}", refusal.when):
            seen = seen_values(refusal.when, scope)
            raise UnsupportedValueError(f"{where}: {refusal.because}{seen}")


def _dtype(config: Mapping[str, object], where: str) -> m.DType:
    """Return the dtype the weights are published in; float32 where the config is
    silent."""
    values = [v for v in (config.get("dtype"), config.get("torch_dtype")) if v]
    names = {str(value).removeprefix("torch.") for value in values} or {"float32"}
    if len(names) > 1:
        shown = " and ".join(sorted(names))
        raise ConfigContradictionError(
            f"{where}: dtype and torch_dtype disagree: {shown}"
        )
    (name,) = names
    if name not in _DTYPES:
        raise UnsupportedValueError(
            f"{where}: the dtype is {show(name)}, supported are {', '.join(_DTYPES)};"
            " --set torch_dtype=bfloat16 chooses another"
        )
    return _DTYPES[name]
