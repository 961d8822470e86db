"""The names that the built-in specs use; a draft reads a checkpoint with them.

Nothing here names a key or a tensor: the more specs there are, the more is known.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmc.frontends.build.slots import slots_of
from glmc.frontends.language.expressions import Expression
from glmc.frontends.language.sections import expressions_in
from glmc.frontends.language.yaml_tree import Branch, Items
from glmc.frontends.spec.library import load_spec

Slots = tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """The steps of a layer as a spec has them, its ops renamed to their kinds."""

    spec: str
    steps: tuple[Mapping[str, object], ...]


@dataclass
class Vocabulary:
    """Names of modules, tensors and config keys, by their meaning in the specs."""

    keys: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Config keys by the place in a spec that they stand at: ``dims.V``, ``norm.eps``,
    ``attention.window``."""
    modules: dict[str, dict[Slots, Counter[str | None]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )
    """Slots by module name, with the layouts they are stored in there."""
    blocks: dict[frozenset[str], list[Block]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Residual steps by the names of their norms."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Config keys or globs that a spec ignores, with its reason."""
    text_parts: dict[str, None] = field(default_factory=dict)
    """Config keys that hold the keys of a text model."""
    waived: dict[str, str] = field(default_factory=dict)
    """Globs of tensors that a spec waives, with its reason."""

    def slots(self, module: str) -> list[Slots]:
        """List the slots that a module of this name fills in other specs, the most
        usual first."""
        found = self.modules.get(module, {})
        return sorted(found, key=lambda slots: -found[slots].total())

    def slots_by_last(self, last: str) -> list[Slots]:
        """List the slots by the last part of the name alone."""
        counts: Counter[Slots] = Counter()
        for name, found in self.modules.items():
            if name.rpartition(".")[2] == last:
                counts.update({slots: n.total() for slots, n in found.items()})
        return [slots for slots, _ in counts.most_common()]

    def is_read(self, key: str) -> bool:
        """Tell whether some spec computes with a config key."""
        return any(key in found for found in self.keys.values())

    def layouts(self, module: str, slots: Slots) -> list[str]:
        """List the layouts in which other specs store a module of this name."""
        found = self.modules.get(module, {}).get(slots, Counter())
        return [layout for layout, _ in found.most_common() if layout]


def learn(known: Mapping[str, Path]) -> Vocabulary:
    """Collect the vocabulary of some specs."""
    words = Vocabulary()
    for name, path in known.items():
        tree: Any = load_spec(path).tree
        _keys(words, tree)
        _modules(words, tree)
        _block(words, tree, name)
        if tree.get("text_in"):
            words.text_parts[tree["text_in"]] = None
        for key, reason in tree.get("ignore", {}).items():
            words.ignored.setdefault(key, f"{name}: {reason}")
        for glob, reason in tree.get("waive", {}).items():
            words.waived.setdefault(glob, reason)
    # What one spec waives, others compute with: matrices of experts that do nothing.
    for glob in list(words.waived):
        if words.slots_by_last(glob.removesuffix(".weight").rpartition(".")[2]):
            del words.waived[glob]
    return words


def _keys(words: Vocabulary, tree: Any) -> None:
    aliases = tree.get("aliases", {})
    for place, expression in _places(tree):
        keys = expression.config_keys
        path = expression.config_path
        if len(keys) != 1 or (path and "." in path):
            continue
        (key,) = keys
        names = [key, *(alias for alias, own in aliases.items() if own == key)]
        words.keys[place].update(names)


def _places(tree: Any) -> Iterator[tuple[str, Expression]]:
    """Yield (place, expression); an op's place begins with its kind, not its name."""
    kinds = {name: op.get("kind", name) for name, op in tree.get("ops", {}).items()}
    for section, value in tree.items():
        if section == "ops":
            for name, op in value.items():
                yield from _leaves(str(kinds[name]), op)
        elif section not in ("variants", "refuse", "checks", "let", "per_layer"):
            yield from _leaves(section, value)


def _leaves(place: str, value: object) -> Iterator[tuple[str, Expression]]:
    if isinstance(value, Expression):
        yield place, value
    elif isinstance(value, Branch):
        for key, inner in value.items():
            yield from _leaves(f"{place}.{key}", inner)


def _modules(words: Vocabulary, tree: Any) -> None:
    for key, entry in tree.get("weights", {}).items():
        name = entry.get("name") if isinstance(entry, Branch) else entry
        layout = entry.get("layout") if isinstance(entry, Branch) else None
        if isinstance(name, str):
            plain = layout if isinstance(layout, str) else None
            words.modules[name][tuple(slots_of(key))][plain] += 1
    for place in ("final_norm", "embed_norm"):
        entry = tree.get(place)
        name = entry.get("name") if isinstance(entry, Branch) else entry
        if isinstance(name, str):
            words.modules[name][(place,)][None] += 1


def _block(words: Vocabulary, tree: Any, spec: str) -> None:
    """Remember the steps, unless they depend on a config."""
    steps = tree.get("block")
    kinds = {name: op.get("kind") for name, op in tree.get("ops", {}).items()}
    if not isinstance(steps, Items) or any(expressions_in(steps)):
        return
    renamed = [
        {**step, "op": kinds.get(step.get("op"))}
        for step in steps
        if isinstance(step, Branch)
    ]
    names = frozenset(norm for step in renamed for norm in norms_of(step))
    made = Block(spec, tuple(renamed))
    if not any(one.steps == made.steps for one in words.blocks[names]):
        words.blocks[names].append(made)


def norms_of(step: Mapping[str, object]) -> Iterator[str]:
    """Yield the names of the norms of a step."""
    for place in ("pre", "post", "after"):
        entry = step.get(place)
        name = entry.get("name") if isinstance(entry, Branch) else entry
        if isinstance(name, str):
            yield name
