"""The evidence that a checkpoint gives from outside: its config, and its tensors by
module."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from glmc.authoring.vocabulary import Vocabulary
from glmc.backends.runtime.tensor_info import TensorInfo
from glmc.compile.checkpoints import checkpoint_files, read_headers
from glmc.frontends.build.config import with_text_part
from glmc.frontends.build.source import Source, resolve_source
from glmc.frontends.read.hub import Hub
from glmc.ir.errors import DraftError

Shape = tuple[int, ...]
_TEXT = re.compile(r"text|lang|llm|decoder")
_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass
class Module:
    """The tensors of one name: a weight, a bias, or both."""

    name: str
    """Relative to the layer's prefix; the full name outside the layers."""
    weight: Shape | None = None
    bias: Shape | None = None
    layers: set[int] = field(default_factory=set)
    """Empty outside the layers."""
    uneven: bool = False
    """True where its shape is not the same in all layers."""

    @property
    def is_matrix(self) -> bool:
        return self.weight is not None and len(self.weight) == 2

    @property
    def is_vector(self) -> bool:
        return self.weight is not None and len(self.weight) == 1

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Evidence:
    """A checkpoint as its config and its headers show it."""

    source: Source
    config: Mapping[str, object]
    """Its text part, where it has one."""
    text_in: str | None
    """The key that the text part lies under."""
    tensors: Mapping[str, TensorInfo]
    layer_prefix: str
    """With ``{i}`` for the index."""
    count: int
    """Layers that there are tensors of."""
    inner: Mapping[str, Module]
    """Modules of a layer, by name within it."""
    outer: Mapping[str, Module]
    odd: tuple[str, ...]
    """Tensors that are no module's weight or bias."""
    waived: tuple[str, ...]
    """Globs of tensors that some spec waives, and that are here."""


def read_evidence(checkpoint: str, hub: Hub, words: Vocabulary) -> Evidence:
    """Read the config and headers of a checkpoint.

    Args:
        checkpoint: a folder, or a hub id, of which only headers are fetched.
        hub: how the hub is asked.
        words: what other specs call the layers' number, a text part, saved buffers.

    Raises:
        GlmcError: when one of the two is missing, or nothing looks like layers.
    """
    source = resolve_source(checkpoint, hub)
    found = read_headers(checkpoint_files(checkpoint, hub))
    if found.index_only:
        raise DraftError(
            f"{found.where} has an index and none of the files it names, so shapes"
            " are unknown; a draft needs the headers of the weights"
        )
    given = source.read_config()
    text_in = _text_part(given, words)
    config = with_text_part(given, text_in, (), source.where)
    waived = [g for g in words.waived if any(fnmatchcase(n, g) for n in found.tensors)]
    names = [
        name
        for name in found.tensors
        if not any(fnmatchcase(name, glob) for glob in waived)
    ]
    prefix = _layer_prefix(names, _counts(config, words), found.where)
    inner, outer, odd = _modules(names, found.tensors, prefix)
    used = {i for module in inner.values() for i in module.layers}
    return Evidence(
        source=source,
        config=config,
        text_in=text_in,
        tensors=found.tensors,
        layer_prefix=f"{prefix}{{i}}.",
        count=max(used) + 1,
        inner=inner,
        outer=outer,
        odd=tuple(odd),
        waived=tuple(waived),
    )


def _text_part(config: Mapping[str, object], words: Vocabulary) -> str | None:
    """Find the key of a composite's text model: a known one, or by its name and
    contents."""
    heads = words.keys["dims.H"].keys()
    if not heads.isdisjoint(config):
        return None
    parts = [
        key
        for key, value in config.items()
        if isinstance(value, Mapping) and not heads.isdisjoint(value)
    ]
    known = [key for key in parts if key in words.text_parts]
    return next(iter([*known, *filter(_TEXT.search, parts)]), None)


def _counts(config: Mapping[str, object], words: Vocabulary) -> set[object]:
    """Collect the numbers of layers that the config may mean."""
    return {config[key] for key in words.keys["layers"] if key in config}


def _layer_prefix(names: list[str], counts: set[object], where: str) -> str:
    """Return the prefix of most numbered tensors, up to the first number.

    Where the config tells how many layers there are, one with that many comes first.
    """
    sizes: Counter[str] = Counter()
    indices: dict[str, set[str]] = {}
    for name in names:
        found = _NUMBER.search(name)
        if found:
            start = name[: found.start() + 1]
            sizes[start] += 1
            indices.setdefault(start, set()).add(found[1])
    if not sizes:
        raise DraftError(
            f"{where}: no tensor has a number in its name, so there are no layers to"
            " describe; is this a language model's checkpoint?"
        )
    return max(sizes, key=lambda start: (len(indices[start]) in counts, sizes[start]))


def _modules(
    names: list[str], tensors: Mapping[str, TensorInfo], prefix: str
) -> tuple[dict[str, Module], dict[str, Module], list[str]]:
    inner: dict[str, Module] = {}
    outer: dict[str, Module] = {}
    odd = []
    for name in sorted(names):
        shape = tensors[name].shape
        module_name, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias") or shape is None:
            odd.append(name)
            continue
        layer, rest = _split(module_name, prefix)
        home = outer if layer is None else inner
        module = home.setdefault(rest, Module(rest))
        before = getattr(module, kind)
        module.uneven |= before not in (None, shape)
        setattr(module, kind, shape)
        module.layers |= set() if layer is None else {layer}
    return inner, outer, odd


def _split(name: str, prefix: str) -> tuple[int | None, str]:
    index, _, rest = name.removeprefix(prefix).partition(".")
    if name.startswith(prefix) and index.isdecimal() and rest:
        return int(index), rest
    return None, name


def grouped(evidence: Evidence) -> Iterator[str]:
    """Yield the modules that are not in every layer, with the layers they are in."""
    for module in evidence.inner.values():
        if len(module.layers) != evidence.count:
            some = sorted(module.layers)
            where = f"layer {some[0]}"
            if len(some) > 1:
                where = f"{len(some)} layers, {some[0]} to {some[-1]}"
            yield f"{module.name} is only in {where}"
        elif module.uneven:
            yield f"the shape of {module.name} depends on the layer"
