"""Find the config key that a spec reads where other specs read a given one."""

from collections import Counter
from collections.abc import Iterator
from functools import cache

from glmc.frontends.language.expressions import Expression
from glmc.frontends.language.yaml_tree import Branch
from glmc.frontends.spec.library import builtin_specs, load_spec

_SECTIONS = ("layers", "dims", "norm", "ops", "max_positions")


def namesake(key: str, tree: Branch) -> str | None:
    """Return the config key that a spec reads where other specs read ``key``; None
    where none does, or none reads it alone.

    Specs agree in what their entries are called, and not in the keys that they read.
    """
    places = _places(key)
    own = dict(_read_alone(tree))
    meant = (own[place] for place, _ in places.most_common() if place in own)
    return next(meant, None)


@cache
def _places(key: str) -> Counter[str]:
    """Count the entries of built-in specs, which do not change, that read ``key``."""
    places: Counter[str] = Counter()
    word = key.encode()
    for path in builtin_specs().values():
        if word in path.read_bytes():
            found = _read_alone(load_spec(path).tree)
            places.update(place for place, read in found if read == key)
    return places


def _read_alone(tree: Branch) -> Iterator[tuple[str, str]]:
    """Yield (dotted entry, key) of every entry that reads one key and no more."""
    for section in _SECTIONS:
        yield from _leaves(tree.get(section), section)


def _leaves(node: object, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Branch):
        for name, inner in node.items():
            yield from _leaves(inner, f"{at}.{name}")
    elif isinstance(node, Expression) and len(node.config_keys) == 1:
        yield at, next(iter(node.config_keys))
