"""Describe as data how a spec reads configs: enough to tell without the spec whether
another config describes the same model.

A build holds this beside what its own config said (``backends/runtime/drift.py``), and
compares a checkpoint's config with it when weights are loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from glmc.frontends.build.absent import implied, same_as_none
from glmc.frontends.build.builder import scopes
from glmc.frontends.build.fates import OFF, READ_BY_FUNCTION, readers
from glmc.frontends.build.rope import scope_of
from glmc.frontends.language.evaluation import Scope, Value, evaluate
from glmc.frontends.language.expressions import Expression
from glmc.frontends.quantization import harmless_keys
from glmc.frontends.spec import AttentionSpec, Spec
from glmc.ir import model as m
from glmc.ir.errors import GlmcError

# What a model of another dtype computes is the same, and tokens are told apart.
_HARMLESS = ("dtype", "torch_dtype", "auto_map")
# Of a rope's parameters, as configs call them.
_SPELT = {"partial": "partial_rotary_factor", "turning": "partial_rotary_factor"}
_BY_KINDS = ("rope_parameters", "rope_scaling")
_PROBE = 13579.0
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Reading:
    """A spec, and the config that it was evaluated with."""

    spec: Spec
    expressions: tuple[Expression, ...]
    scope: Scope
    read: frozenset[str]
    """The keys that were read of it; no other key changed what came of it."""
    turned: frozenset[str]
    """The rope parameters that were read, by the names of ``rope()``."""
    published: Mapping[str, object]
    """config.json and what belongs to it, before ``--set``."""
    generation: Mapping[str, object]
    sets: tuple[tuple[list[str], object], ...]
    ignored: tuple[str, ...]


def reads(reading: Reading, model: m.Model) -> dict[str, object]:
    """Return the entry of ``compiled.json`` about reading configs.

    ``keys``      what the spec reads
    ``expected``  keys to values that all say the same
    ``defaults``  what an absent key stands for
    ``implied``   key to the value that says the same as null in this config
    ``idle``      keys that the spec knows and that change nothing in this model
    ``rope``      what is read of ropes
    ``ropes``     the rope of each kind of layer
    ``own``       keys for the rope of a kind of layer, where ``rope_parameters`` has
                  no entries for kinds
    ``ignored``   patterns of keys that the spec ignores; others are of no known effect
    ``off``       values with which those others have none
    """
    spec = reading.spec
    model_scope, layers = scopes(spec, reading.scope)
    idle = {*readers(spec, reading.expressions), *_HARMLESS, *_TOKENS}
    idle -= {*reading.read, "model_type"}
    idle |= _only_lengths(reading, model)
    own = _own(reading) if reading.turned else {}
    idle -= {key for keys in own.values() for key in keys.values()}
    keys = {*reading.read, "model_type"} - idle
    keys |= {key for keys in own.values() for key in keys.values()}
    if reading.turned:
        keys -= {*READ_BY_FUNCTION["rope"]} - {"max_position_embeddings"}
    return {
        "keys": sorted(keys),
        "expected": {
            **same_as_none(reading.expressions, model_scope, layers),
            **{k: list(one.values) for k, one in spec.expect.items()},
        },
        "defaults": dict(spec.defaults),
        "implied": implied(reading.expressions, model_scope, layers),
        "aliases": dict(spec.aliases),
        "idle": sorted(idle),
        "ignored": list(spec.ignore),
        "off": list(OFF),
        "ignored_within": list(harmless_keys(reading.scope.config)),
        "part": spec.text_in,
        "set": [list(one) for one in reading.sets],
        "dropped": [name.split(".", 1) for name in reading.ignored],
        "rope": sorted({_SPELT.get(one, one) for one in reading.turned}),
        "ropes": _ropes(reading) if reading.turned else {},
        "own": own,
    }


def _only_lengths(reading: Reading, model: m.Model) -> set[str]:
    """Return keys that only bound the number of positions, where positions are no
    table: a text may be longer. The rope's share of them is told by ``rope``."""
    limit = reading.spec.max_positions
    if model.embed.positions is not None or not isinstance(limit, Expression):
        return set()
    others = (one for one in reading.expressions if one != limit)
    return set(limit.config_keys) - {k for one in others for k in one.config_keys}


def _ropes(reading: Reading) -> dict[str, object]:
    """Return the rope of each kind of layer, spelt as ``rope_parameters`` spells it."""
    spelling = {"type": "rope_type", "theta": "rope_theta", **_SPELT}
    found: dict[str, object] = {}
    for kind, params in _ropes_of(reading.spec, reading.scope).items():
        left = {k: v for k, v in params.items() if v is not None}
        left.pop("max_position_embeddings", None)
        found[kind] = {spelling.get(key, key): value for key, value in left.items()}
    return found


def _ropes_of(spec: Spec, scope: Scope) -> dict[str, Mapping[str, Value]]:
    """Return the rope parameters of each kind of layer; nothing where the layers of a
    kind differ."""
    found: dict[str, list[Value]] = {}
    ops = [op for op in spec.ops.values() if isinstance(op, AttentionSpec)]
    for layer in scopes(spec, scope)[1]:
        kinds = {v for v in layer.variables.values() if _is_kind(v)}
        for op in ops:
            if op.rope and len(kinds) == 1 and _holds(op.rope.when, layer):
                params = evaluate(op.rope.params, layer)
                found.setdefault(str(*kinds), []).append(params)
    return {
        kind: each[0]
        for kind, each in found.items()
        if isinstance(each[0], Mapping) and all(one == each[0] for one in each)
    }


def _own(reading: Reading) -> dict[str, dict[str, str]]:
    """Return the keys that give a rope parameter of one kind of layer, by kind and
    parameter: those with which it changes, where ropes are not told by kinds."""
    spec, config = reading.spec, dict(reading.scope.config.items())
    plain = {k: v for k, v in config.items() if k not in _BY_KINDS}
    ropes = [op.rope for op in spec.ops.values() if isinstance(op, AttentionSpec)]
    read = {key for rope in ropes if rope for key in rope.params.config_keys}
    found: dict[str, dict[str, str]] = {}
    for key in sorted(read - {*READ_BY_FUNCTION["rope"]}):
        try:
            probed = _ropes_of(spec, scope_of({**plain, key: _PROBE}))
        except GlmcError:
            continue
        for kind, params in probed.items():
            moved = [name for name, value in params.items() if value == _PROBE]
            found.setdefault(kind, {}).update(dict.fromkeys(moved, key))
    return {kind: keys for kind, keys in found.items() if keys}


def _is_kind(value: Value) -> bool:
    return isinstance(value, str) and value.endswith("_attention")


def _holds(flag: object, scope: Scope) -> bool:
    value = evaluate(flag, scope) if isinstance(flag, Expression) else flag
    return value is True
