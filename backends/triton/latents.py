"""Latent attention: what of a model shapes its kernels, and their launches."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glmc.backends.triton import structure, tiles
from glmc.backends.triton.uses import OpUse

_OPERANDS = frozenset({"q", "latents", "kv_b", "selection"})
_ATTRS = frozenset({"scale"})


@dataclass(frozen=True)
class LatentShape:
    """Heads; channels of a key that are made and that turned; of a value, a latent."""

    heads: int
    nope: int
    turned: int
    v_dim: int
    rank: int

    @classmethod
    def of(cls, use: OpUse) -> "LatentShape":
        """The shape of a layer's latent attention."""
        heads, rank = use.size("q", 2), use.size("kv_b", 1)
        turned = use.size("latents") - rank
        nope = use.size("q", 3) - turned
        return cls(heads, nope, turned, use.size("kv_b", 0) // heads - nope, rank)

    @property
    def expanded(self) -> int:
        """Channels that a program of prefill holds of a token's key and value."""
        widths = (self.nope, self.turned, self.v_dim)
        return sum(map(tiles.dot_block, widths))


@dataclass(frozen=True)
class LatentPlan:
    """What the layers with latent attention share."""

    selects: bool
    splits: int
    prefill: dict[int, tiles.Tile]
    decode: dict[int, tiles.Tile]


def unfit(uses: Iterable[OpUse]) -> str | None:
    """Why the kernels of ``latent_attention`` do not take a model's uses of it."""
    reasons = map(_unfit, structure.named(uses, "latent_attention"))
    return next(filter(None, reasons), None)


def _unfit(use: OpUse) -> str | None:
    shape = LatentShape.of(use)
    if tiles.dot_block(shape.rank) > tiles.WIDEST_LATENT:
        return (
            f"{use.name}: a program holds latents of {tiles.WIDEST_LATENT} channels at"
            f" most, not of {shape.rank}"
        )
    if shape.expanded > tiles.WIDEST_EXPANDED:
        return (
            f"{use.name}: a program holds {tiles.WIDEST_EXPANDED} channels of a key and"
            f" its value at most, each part rounded up, not {shape.expanded}"
        )
    return use.beyond(_ATTRS, _OPERANDS)


def plan(uses: Sequence[OpUse]) -> LatentPlan | None:
    """One set of tiles, fit for the widest; None where there is no such layer, or one
    that is :func:`unfit`."""
    attending = structure.named(uses, "latent_attention")
    if not attending or unfit(attending):
        return None
    shapes = [LatentShape.of(use) for use in attending]
    rank, heads = max(s.rank for s in shapes), min(s.heads for s in shapes)
    expanded = max(s.expanded for s in shapes)
    sizes = tiles.ELEMENT_SIZES
    return LatentPlan(
        selects=any("selection" in use.operands for use in attending),
        splits=tiles.latent_splits(heads),
        prefill={n: tiles.latent_prefill(n, expanded) for n in sizes},
        decode={n: tiles.latent_decode(n, tiles.dot_block(rank)) for n in sizes},
    )


def variables(uses: Sequence[OpUse]) -> dict[str, object]:
    """What the templates are rendered with."""
    found = plan(uses)
    latent: dict[str, object] = {"write_warps": tiles.LATENT_WRITE_WARPS}
    if found:
        latent |= {
            "selects": found.selects,
            "splits": found.splits,
            "prefill": [(n, json.dumps(tile)) for n, tile in found.prefill.items()],
            "decode": [(n, json.dumps(tile)) for n, tile in found.decode.items()],
            "query": tiles.LATENT_QUERY,
            "context": tiles.LATENT_CONTEXT,
        }
    return {"latent": latent}
