"""Latent attention: what of a model shapes its kernels, and their launches."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glmc.backends.triton import structure, tiles
from glmc.backends.triton.specs import BYTES, AotSpec, Arguments, Constant, tiled
from glmc.backends.triton.uses import OpUse

_OPERANDS = frozenset({"q", "kv", "kv_b", "selection"})
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
        turned = use.size("kv", 1) - rank
        nope = use.size("q", 3) - turned
        return cls(heads, nope, turned, use.size("kv_b", 0) // heads - nope, rank)

    def constants(self, *names: str) -> dict[str, Constant]:
        """Those of the named sizes."""
        sizes: dict[str, Constant] = {
            "HEADS": self.heads,
            "NOPE": self.nope,
            "TURNED": self.turned,
            "V_DIM": self.v_dim,
            "RANK": self.rank,
        }
        return {name: sizes[name] for name in names}

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


def latent_write(use: OpUse, uses: list[OpUse], dtype: str) -> list[AotSpec]:
    """The copy of latents and shared keys into the cache."""
    rank, turned = use.size("latent"), use.size("shared")
    arguments = Arguments(dtype).pointers("latent", "shared", "keys")
    arguments.pointers("position", dtype="*i32")
    strides = {"latent_batch": rank, "latent_token": rank}
    arguments.strides(**strides, shared_batch=turned, shared_token=turned)
    arguments.counts("T", "capacity")
    constants: dict[str, Constant] = {"RANK": rank, "TURNED": turned}
    constants["RANK_BLOCK"] = tiles.power_of_two(rank)
    constants["TURNED_BLOCK"] = tiles.power_of_two(turned)
    return [arguments.spec("latent_write_kernel", constants, tiles.LATENT_WRITE_WARPS)]


def latent_attention(use: OpUse, uses: list[OpUse], dtype: str) -> list[AotSpec]:
    """Prefill and decode, with and without left padding and a selection."""
    shape, shared = LatentShape.of(use), plan(uses)
    assert shared
    specs = [_query(shape, dtype), _context(shape, dtype, shared.splits)]
    choices = (False, True) if "selection" in use.operands else (False,)
    for padded in (False, True):
        for selected in choices:
            launch = _Launch(use, shape, shared, dtype, padded, selected)
            specs += [launch.prefill(), launch.decode()]
    return specs


@dataclass(frozen=True)
class _Launch:
    """Attention of one layer, with padding or not, over a selection or not."""

    use: OpUse
    shape: LatentShape
    plan: LatentPlan
    dtype: str
    padded: bool
    selected: bool

    def prefill(self) -> AotSpec:
        """Of many queries."""
        made = Arguments(self.dtype).pointers("q", "up", "keys")
        absent = self._optional(made, "seen", "*i1")
        made.pointers("out").strides(**self._rows("q_batch", "q_token"))
        made.strides(q_head=self.shape.nope + self.shape.turned)
        made.counts("T", "S", "capacity")
        names = ("HEADS", "NOPE", "TURNED", "V_DIM", "RANK")
        sizes = self.shape.constants(*names) | self._blocks("NOPE", "TURNED", "V")
        tile = self.plan.prefill[BYTES[self.dtype]]
        return tiled(made, "latent_prefill_kernel", sizes | absent, tile)

    def decode(self) -> AotSpec:
        """Of one."""
        made = Arguments(self.dtype).pointers("states", "keys")
        absent = self._optional(made, "selection", "*i64")
        made.pointers("parts", "weights", dtype="*fp32")
        made.counts(*(("N",) if self.plan.selects else ()), "capacity")
        sizes = self.shape.constants("HEADS", "TURNED", "RANK")
        sizes |= self._blocks("RANK", "TURNED") | {"SPLITS": self.plan.splits}
        tile = self.plan.decode[BYTES[self.dtype]]
        return tiled(made, "latent_decode_kernel", sizes | absent, tile)

    def _optional(self, made: Arguments, name: str, kind: str) -> dict[str, Constant]:
        """The position, and what a launch may leave out."""
        made.pointers("position", dtype="*i32")
        absent: dict[str, Constant] = {"SCALE": self.use.real("scale")}
        if self.padded:
            made.pointers("start", dtype="*i32")
        else:
            absent["start"] = None
        if self.selected:
            made.pointers(name, dtype=kind)
        elif self.plan.selects:
            absent[name] = None
        return absent

    def _rows(self, *names: str) -> dict[str, int]:
        width = self.shape.heads * (self.shape.nope + self.shape.turned)
        return dict.fromkeys(names, width)

    def _blocks(self, *names: str) -> dict[str, Constant]:
        shape = self.shape
        widths = {"NOPE": shape.nope, "TURNED": shape.turned, "V": shape.v_dim}
        widths["RANK"] = shape.rank
        return {f"{name}_BLOCK": tiles.dot_block(widths[name]) for name in names}


def _query(shape: LatentShape, dtype: str) -> AotSpec:
    width = shape.nope + shape.turned
    arguments = Arguments(dtype).pointers("q", "kv_b", "states")
    arguments.strides(q_batch=shape.heads * width, q_head=width)
    sizes = shape.constants("HEADS", "NOPE", "TURNED", "V_DIM", "RANK")
    sizes["TURNED_BLOCK"] = tiles.power_of_two(shape.turned)
    return tiled(arguments, "latent_query_kernel", sizes, tiles.LATENT_QUERY)


def _context(shape: LatentShape, dtype: str, splits: int) -> AotSpec:
    arguments = Arguments(dtype).pointers("parts", "weights", dtype="*fp32")
    arguments.pointers("kv_b", "out")
    sizes = shape.constants("HEADS", "NOPE", "V_DIM", "RANK") | {"SPLITS": splits}
    return tiled(arguments, "latent_context_kernel", sizes, tiles.LATENT_CONTEXT)
