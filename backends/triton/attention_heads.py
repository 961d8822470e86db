"""The heads of attention: the sizes its kernels take, and the tiles that fit a
model's."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from glmc.backends.triton import tiles
from glmc.backends.triton.forms import CHOICES, Form
from glmc.backends.triton.lines import Lines
from glmc.backends.triton.uses import OpUse

CACHED = ("attention", "qkv_attention")
ALL = (*CACHED, "full_attention")
SCORED = tuple(CHOICES["attention"])


@dataclass(frozen=True)
class HeadShape:
    """The heads of an attention op."""

    heads: int
    kv_heads: int
    k_dim: int
    v_dim: int

    @classmethod
    def of(cls, use: OpUse) -> "HeadShape":
        """Return the shape of a layer's heads."""
        if use.name == "qkv_attention":
            width = use.whole("head_dim")
            return cls(use.whole("heads"), use.whole("kv_heads"), width, width)
        if use.name == "full_attention":
            sizes = (use.size("k", 2), use.size("k", 3), use.size("v", 3))
            return cls(use.size("q", 2), *sizes)
        sizes = (use.size("kv", 0), use.size("kv", 1), use.size("kv", 2))
        return cls(use.size("q", 2), *sizes)

    def width(self) -> int:
        """Return the width of a tile that holds a key or a value."""
        return tiles.dot_block(max(self.k_dim, self.v_dim))


def unfit(use: OpUse) -> str | None:
    """Give the reason why no kernel takes a use of an attention op, or None."""
    shape, form = HeadShape.of(use), Form.of(use)
    width = max(shape.k_dim, shape.v_dim)
    if width > tiles.WIDEST_HEAD:
        return (
            f"{use.name}: a program holds heads of {tiles.WIDEST_HEAD} channels at"
            f" most, not of {width}"
        )
    # Slots that are seen from any chunk.
    beside = [what for what in ("prefix", "learned") if form[what]]
    if form["chunk"] and beside:
        return (
            f"{use.name}: no kernel takes chunks together with {' and '.join(beside)}"
        )
    return None


@dataclass(frozen=True)
class Plan:
    """One set of tiles, fit for the widest heads of a model: by bytes of an element."""

    splits: int
    prefill: Mapping[int, tiles.Tile]
    decode: Mapping[int, tiles.Tile]

    @classmethod
    def of(cls, uses: Iterable[OpUse]) -> "Plan":
        """Return the plan for the attention of all layers."""
        shapes = [HeadShape.of(use) for use in uses]
        width = max((shape.width() for shape in shapes), default=16)
        kv_heads = min((shape.kv_heads for shape in shapes), default=1)
        group = max((shape.heads // shape.kv_heads for shape in shapes), default=1)
        return cls(
            splits=tiles.splits(kv_heads),
            prefill={n: tiles.prefill(n, width) for n in tiles.ELEMENT_SIZES},
            decode={n: tiles.decode(n, width, group) for n in tiles.ELEMENT_SIZES},
        )


def table(found: Mapping[int, tiles.Tile]) -> Lines:
    """Return the rows of a table of tiles."""
    return [f"{size}: {json.dumps(tile)}," for size, tile in found.items()]
