"""Find the config keys that hold the sizes of a model, by their names and by the
shapes."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from glmc.authoring.evidence import Evidence, Module
from glmc.authoring.vocabulary import Vocabulary
from glmc.ir.errors import DraftError

# Keys that an expression can name.
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_HINTS = {
    "dims.V": r"vocab",
    "dims.E": r"^n_embd$|^d_model$|^(hidden|model|embed).*(size|dim)$",
    "dims.F": r"inter|inner|ffn|d_ff",
    "layers": r"layers?$",
    "dims.H": r"(?<!kv_)(?<!value_)heads?$",
    "dims.K": r"(kv|key_value)_heads|head_kv|query_groups",
    "dims.D": r"head_(dim|size)|d_head|d_kv",
    "max_positions": r"max_.*(pos|len)|seq_len|ctx|context|positions",
}


@dataclass(frozen=True)
class Guess:
    """A value that a draft proposes for some place."""

    text: str | int
    """As it stands in the spec."""
    value: int
    doubt: str = ""
    """The decision to make, where it is not certain."""
    keys: tuple[str, ...] = ()
    """The config keys it reads."""


@dataclass(frozen=True)
class Sizes:
    """The axes of a model."""

    V: Guess
    E: Guess
    H: Guess
    K: Guess
    D: Guess
    F: Guess
    layers: Guess

    def dims(self) -> Iterator[tuple[str, Guess]]:
        """Yield the entries of ``dims`` in the order in which they build on each
        other."""
        for name in "VEHKDF":
            yield name, getattr(self, name)


def measure(evidence: Evidence, find: "Finder", embed: Module) -> Sizes:
    """Return the sizes of a checkpoint whose token embedding is known."""
    assert embed.weight is not None
    rows, width = embed.weight
    vocab, hidden = find.size("dims.V", rows), find.size("dims.E", width)
    heads = _heads(find)
    kv_heads = find.named("dims.K") or Guess("=H", heads.value)
    head_dim = find.named("dims.D") or _head_dim(hidden, heads)
    known = {vocab.value, hidden.value}
    known |= {n * head_dim.value for n in _qkv_rows(heads.value, kv_heads.value)}
    return Sizes(
        V=vocab,
        E=hidden,
        H=heads,
        K=kv_heads,
        D=head_dim,
        F=_feed_forward(find, evidence, known, hidden.value),
        layers=find.size("layers", evidence.count),
    )


class Finder:
    """Config keys by the names that other specs use, and by their values."""

    def __init__(self, config: Mapping[str, object], words: Vocabulary) -> None:
        self.config = {key: v for key, v in config.items() if _NAME.fullmatch(key)}
        self.words = words
        self.used: set[str] = set()

    def named(self, place: str) -> Guess | None:
        """Find a whole number under a name that other specs use at this place."""
        for key, _ in self.words.keys[place].most_common():
            value = self.config.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                return Guess(f"=c.{key}", value, keys=(key,))
        return self._hinted(place)

    def _hinted(self, place: str) -> Guess | None:
        """Find a name that is in common use for this place, though no spec has it
        there."""
        for key, value in self.config.items():
            number = isinstance(value, int) and not isinstance(value, bool)
            if number and place in _HINTS and re.search(_HINTS[place], key):
                doubt = f"{key} by its name, is it?"
                return Guess(f"=c.{key}", int(str(value)), doubt, keys=(key,))
        return None

    def size(self, place: str, measured: int) -> Guess:
        """Find the key that holds a size measured from shapes; one key is one size."""
        for key, _ in self.words.keys[place].most_common():
            if self.config.get(key) == measured:
                return self._use(key, measured)
        same = [k for k, v in self.config.items() if v == measured and v is not True]
        same.sort(key=lambda key: key in self.used)
        if not same:
            return Guess(measured, measured, "no config key has this size")
        hint = _HINTS.get(place)
        meant = [key for key in same if hint and re.search(hint, key)]
        if meant:
            return self._use(meant[0], measured)
        doubt = f"chosen because it is {measured}, as the shapes are"
        if len(same) > 1:
            doubt += f"; so are {', '.join(same[1:])}"
        return self._use(same[0], measured, doubt)

    def _use(self, key: str, value: int, doubt: str = "") -> Guess:
        self.used.add(key)
        return Guess(f"=c.{key}", value, doubt, keys=(key,))


def _qkv_rows(heads: int, kv_heads: int) -> set[int]:
    return {heads, kv_heads, 2 * kv_heads, heads + 2 * kv_heads}


def _heads(find: Finder) -> Guess:
    found = find.named("dims.H")
    if found:
        return found
    raise DraftError(
        "no config key looks like the number of attention heads, which no header"
        " shows; write `dims.H` in a spec of your own (docs/writing-a-spec.md)"
    )


def _head_dim(hidden: Guess, heads: Guess) -> Guess:
    return Guess("=E // H", hidden.value // heads.value)


def _feed_forward(
    find: Finder, evidence: Evidence, known: set[int], hidden: int
) -> Guess:
    """Return the size that layers have beside those of the stream and of attention."""
    shapes = [m.weight for m in evidence.inner.values() if m.is_matrix and m.weight]
    sizes = {n for shape in shapes for n in shape} - known
    for key, _ in find.words.keys["dims.F"].most_common():
        if find.config.get(key) in {n for shape in shapes for n in shape}:
            return find.size("dims.F", int(str(find.config[key])))
    if not sizes:
        return Guess("=4 * E", 4 * hidden, "no matrix of a layer has a size of its own")
    width = min(sizes)  # a fused gate and up has twice as many rows
    silent = [k for k in find.words.keys["dims.F"] if k in find.config]
    if width == 4 * hidden:
        text = f"=c.{silent[0]} ?? 4 * E" if silent else "=4 * E"
        return Guess(text, width, keys=tuple(silent[:1]))
    return find.size("dims.F", width)
