"""What the layers of a model have in common: the structure of its kernels.

Numbers reach a kernel as constants; what is chosen here decides which lines of a
template are emitted at all.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from glmc.backends.triton import tiles
from glmc.backends.triton.uses import OpUse, Presence, presence

RMS_OPS = ("rms_norm", "add_rms_norm")
LAYER_OPS = ("layer_norm", "add_layer_norm")
POINTWISE_OPS = ("activation", "act_mul")
ACTIVATING_OPS = (*POINTWISE_OPS, "moe_experts")
ATTENTION_OPS = ("attention", "qkv_attention")
PRODUCT_OPS = (
    "linear",
    "quantized_linear",
    "linear_add",
    "linear_act",
    "rms_norm_linear",
    "layer_norm_linear",
)
MOE_OPS = ("moe_router", "moe_experts")
ALLOCATING_OPS = (
    *ATTENTION_OPS,
    *MOE_OPS,
    *PRODUCT_OPS,
    "latent_attention",
)
ALL_ATTENTION_OPS = (*ATTENTION_OPS, "full_attention")


@dataclass(frozen=True, order=True)
class Prologue:
    """A kind of layer as qkv_attention sees it before it attends."""

    rope: bool
    norm: bool
    style: str
    weight_in: str
    sections: int = 1
    unit_offset: bool = False

    @classmethod
    def of(cls, use: OpUse) -> "Prologue":
        return cls(
            rope="cos" in use.operands,
            norm="q_norm" in use.operands,
            style=use.text("style", "half"),
            weight_in=use.text("weight_in", "input"),
            sections=use.whole("sections", 1),
            unit_offset=use.flag("unit_offset"),
        )

    def name(self, kinds: Sequence["Prologue"], part: str) -> str:
        """Name of one of its functions ("heads", "prologue", "decode"): says no more
        than tells it from the other kinds."""
        if len(kinds) == 1:
            return f"qkv_{part}"
        parts = ["qkv", "norm" if self.norm else "", "rope" if self.rope else ""]
        parts += [self.style] if len({k.style for k in kinds}) > 1 else []
        parts += [self.weight_in] if len({k.weight_in for k in kinds}) > 1 else []
        several = len({k.sections for k in kinds}) > 1
        parts += [f"sections_{self.sections}"] if several else []
        differ = len({k.unit_offset for k in kinds}) > 1
        parts += ["offset"] if differ and self.unit_offset else []
        return "_".join(filter(None, [*parts, part]))

    def key(self, kinds: Sequence["Prologue"]) -> str:
        """The source text of what the launcher looks a layer's functions up by."""
        parts = [str(self.rope), str(self.norm)]
        parts += [json.dumps(self.style), json.dumps(self.weight_in)]
        parts += [str(self.sections)] if sectioned(kinds) else []
        parts += [str(self.unit_offset)] if offsets(kinds) else []
        return f"({', '.join(parts)})"


def sectioned(kinds: Iterable[Prologue]) -> bool:
    """Whether the rotary channels of some layer are cut into sections."""
    return any(kind.sections > 1 for kind in kinds)


def offsets(kinds: Iterable[Prologue]) -> bool:
    """Whether weights of some norm are stored as what they differ from 1 by."""
    return any(kind.unit_offset for kind in kinds)


@dataclass(frozen=True)
class HeadShape:
    """The heads of an attention op."""

    heads: int
    kv_heads: int
    k_dim: int
    v_dim: int

    @classmethod
    def of(cls, use: OpUse) -> "HeadShape":
        if use.name == "qkv_attention":
            width = use.whole("head_dim")
            return cls(use.whole("heads"), use.whole("kv_heads"), width, width)
        if use.name == "full_attention":
            sizes = (use.size("k", 2), use.size("k", 3), use.size("v", 3))
            return cls(use.size("q", 2), *sizes)
        sizes = (use.size("kv", 0), use.size("kv", 1), use.size("kv", 2))
        return cls(use.size("q", 2), *sizes)

    def width(self) -> int:
        return tiles.dot_block(max(self.k_dim, self.v_dim))


def named(uses: Iterable[OpUse], *names: str) -> list[OpUse]:
    """The uses of the named ops."""
    return [use for use in uses if use.name in names]


def weight_in(uses: Iterable[OpUse]) -> str:
    """Where the weights of RMS norms multiply: one answer, or "mixed"."""
    normed = [use for use in named(uses, "qkv_attention") if "q_norm" in use.operands]
    found = {u.text("weight_in", "input") for u in [*named(uses, *RMS_OPS), *normed]}
    return found.pop() if len(found) == 1 else "mixed"


def offset(uses: Iterable[OpUse], ops: Sequence[str]) -> Presence:
    """Which norms have weights that are stored as what they differ from 1 by."""
    return presence(use.flag("unit_offset") for use in named(uses, *ops))


def prologues(uses: Iterable[OpUse]) -> list[Prologue]:
    """The kinds of qkv_attention layer, sorted."""
    return sorted({Prologue.of(use) for use in named(uses, "qkv_attention")})


def functions(uses: Iterable[OpUse]) -> list[str]:
    """The activation functions in kernels, sorted; clamped experts have none."""
    activating = named(uses, *ACTIVATING_OPS)
    return sorted({u.text("fn") for u in activating if u.attrs.get("limit") is None})


def grouped(quantized: Iterable[OpUse]) -> bool:
    """Whether some scales are for groups of a row's columns, not for whole rows."""
    return any(len(use.shapes["scale"]) > 1 for use in quantized)


def codes_unfit(uses: Iterable[OpUse], name: str) -> str | None:
    """Why the kernels of a product do not take the codes that it multiplies by."""
    coded = [use for use in named(uses, name) if "bits" in use.attrs]
    return next(filter(None, map(_codes_unfit, coded)), None)


def _codes_unfit(use: OpUse) -> str | None:
    """A tile of columns has its codes in the same words: it lies within one group of
    equal scale, or its groups are whole planes of the words."""
    bits = use.whole("bits")
    width = use.size("weight") * 8 // bits
    if width * bits % 32:
        return f"{use.name}: rows of {width} codes do not fill words of 32 bits"
    groups = use.size("scale") if len(use.shapes["scale"]) > 1 else 1
    group, run = width // groups, math.gcd(width * bits // 32, 16)
    tile = run * 32 // bits
    if groups > 1 and (group % run or (tile % group and group % tile)):
        return (
            f"{use.name}: groups of {group} columns do not fit the tiles of {tile} that"
            f" kernels read from rows of {width}"
        )
    return None


@dataclass(frozen=True)
class Option:
    """An attribute of attention that some layer of the model has.

    constant  the constant of kernels that it becomes
    keyword   the argument it comes from, and what that is where it is left out
    """

    constant: str
    keyword: str
    default: str


SCALE = Option("SCALE", "scale", "")
OPTIONS = (
    Option("WINDOW", "window", "=None"),
    Option("LEARNED", "learned", "=0"),
    Option("CHUNK", "chunk", "=None"),
    Option("CAP", "softcap", "=None"),
)
POINTERS = ("prefix", "slopes", "sinks")
"""Optional operands of attention."""


@dataclass(frozen=True)
class AttentionPlan:
    """What all attention layers share: by bytes of an element where it is a tile.

    presence  of each option: "none" | "some" | "all" layers
    pointers  the optional operands that some layer has
    """

    presence: Mapping[str, Presence]
    pointers: tuple[str, ...]
    splits: int
    prefill: Mapping[int, tiles.Tile]
    decode: Mapping[int, tiles.Tile]

    def has(self, name: str) -> bool:
        """Whether some layer has this option or operand."""
        return name in self.pointers or self.presence.get(name, "none") != "none"

    @property
    def vectors(self) -> tuple[str, ...]:
        """The optional operands that are one number for each head. Decode takes no
        others: a prefix lies before any token that is decoded."""
        return tuple(name for name in self.pointers if name != "prefix")

    @property
    def options(self) -> tuple[Option, ...]:
        """The scale, and what else kernels are specialised by."""
        return (SCALE, *(option for option in OPTIONS if self.has(option.keyword)))


def attention_unfit(uses: Iterable[OpUse], name: str) -> str | None:
    """Why the kernels of an attention op do not take a model's layers."""
    attending = named(uses, *ALL_ATTENTION_OPS)
    plan, width = attention_plan(attending), widest(attending)
    if width > tiles.WIDEST_HEAD:
        return (
            f"{name}: a program holds heads of {tiles.WIDEST_HEAD} channels at most,"
            f" not of {width}"
        )
    # Slots that are seen from any chunk.
    beside = [what for what in ("prefix", "learned") if plan.has(what)]
    if plan.has("chunk") and beside:
        return f"{name}: no kernel takes chunks together with {' and '.join(beside)}"
    return None


def widest(attending: Iterable[OpUse]) -> int:
    """Channels of the widest head of a key or a value."""
    shapes = map(HeadShape.of, attending)
    return max((max(s.k_dim, s.v_dim) for s in shapes), default=0)


def attention_plan(uses: Iterable[OpUse]) -> AttentionPlan:
    """One set of tiles, fit for the widest heads of the model."""
    attending = named(uses, *ALL_ATTENTION_OPS)
    shapes = [HeadShape.of(use) for use in attending]
    width = max((shape.width() for shape in shapes), default=16)
    kv_heads = min((shape.kv_heads for shape in shapes), default=1)
    group = max((shape.heads // shape.kv_heads for shape in shapes), default=1)
    given = {
        option.keyword: presence(
            use.attrs.get(option.keyword) not in (None, 0) for use in attending
        )
        for option in OPTIONS
    }
    there = {name for use in attending for name in use.operands}
    return AttentionPlan(
        presence=given,
        pointers=tuple(name for name in POINTERS if name in there),
        splits=tiles.splits(kv_heads),
        prefill={n: tiles.prefill(n, width) for n in tiles.ELEMENT_SIZES},
        decode={n: tiles.decode(n, width, group) for n in tiles.ELEMENT_SIZES},
    )


def weighs(uses: Iterable[OpUse]) -> bool:
    """Whether any kernel multiplies by the weight of an RMS norm."""
    normed = any(kind.norm for kind in prologues(uses))
    return normed or bool(named(uses, *RMS_OPS))
