"""Trace each line of a spec to the config keys it rests on.

Kept in a build's manifest, so that ``glmc inspect --trace`` can lead from an emitted
line back to the config.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from glmc.frontends.build.fates import READ_BY_FUNCTION
from glmc.frontends.language.expressions import Expression
from glmc.frontends.language.yaml_tree import Branch, Items, Position

_SECTIONS = (
    "layers", "max_positions", "norm", "per_layer", "block", "ops", "final_norm",
    "head", "weights",
)  # fmt: skip
_NAMES = ("dims", "let", "per_layer")


@dataclass(frozen=True)
class SpecLine:
    """An entry of a spec, where it stands and the config keys that decide it."""

    where: str
    says: str
    keys: tuple[str, ...]


def spec_lines(tree: Branch, config: Mapping[str, object]) -> dict[str, SpecLine]:
    """Map dotted paths to lines for everything a spec says of the computation.

    Keys are those of ``config`` that an expression names, itself or through ``dims``,
    ``let`` and ``per_layer``.
    """
    known: dict[str, tuple[str, ...]] = {}
    found: dict[str, SpecLine] = {}
    for section in dict.fromkeys((*_NAMES, *_SECTIONS)):
        if section not in tree:
            continue
        for path, value, at in _leaves(tree[section], section, tree.keys_at[section]):
            keys = tuple(k for k in _keys(value, known) if k in config)
            found[path] = SpecLine(str(at), str(value), keys)
            head, _, rest = path.partition(".")
            if head in _NAMES and rest:
                name = rest.partition(".")[0]
                known[name] = tuple(dict.fromkeys((*known.get(name, ()), *keys)))
    return found


_AXES = {"H": "heads", "K": "kv_heads", "D": "head_dim", "Dv": "v_dim", "F": "ff"}
"""Axes of layouts to the entries of a spec that say their sizes."""


def sized_by(lines: Mapping[str, SpecLine], axis: str | None) -> str:
    """Return the config keys that a spec reads for the size of an axis of its
    layouts."""
    entry = _AXES.get(axis or "")
    found = (line for at, line in lines.items() if at.split(".")[-1] == entry)
    return ", ".join(dict.fromkeys(key for line in found for key in line.keys))


def _leaves(
    node: object, path: str, at: Position
) -> Iterator[tuple[str, object, Position]]:
    if isinstance(node, Branch):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}", node.keys_at[key])
    elif isinstance(node, Items):
        for n, (value, place) in enumerate(zip(node, node.items_at, strict=True)):
            yield from _leaves(value, f"{path}.{n}", place)
    else:
        yield path, node, at


def _keys(value: object, known: Mapping[str, tuple[str, ...]]) -> list[str]:
    if not isinstance(value, Expression):
        return []
    keys = sorted(value.config_keys)
    for name in sorted(value.names):
        keys += known.get(name, ()) or READ_BY_FUNCTION.get(name, ())
    return list(dict.fromkeys(keys))
