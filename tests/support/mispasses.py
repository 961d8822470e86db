"""Seeded faults of passes: fusions and a carry that mean something else, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from glmc.backends.triton.passes import products
from glmc.backends.triton.passes.qkv_attention import QKV_ATTENTION
from glmc.ir.graph import Program
from glmc.ir.passes import Entry, fusions
from glmc.ir.passes.carry import CarryResidual
from glmc.ir.passes.rewrite import Fusion, Rule
from support.misreadings import BIASES, GLM, GPT2, LLAMA, QWEN3, SANDWICH
from support.stages import PIPELINE


@dataclass(frozen=True)
class Mispass:
    """A pass that means something else."""

    name: str
    base: str
    broken: Any
    ops: str
    place: int | str = 0


def swapped(fusion: Fusion, old: str, new: str) -> Fusion:
    """A fusion whose replacements say ``new`` where they said ``old``."""
    rules = tuple(
        Rule(match=rule.match, replace=rule.replace.replace(old, new))
        for rule in fusion.rules
    )
    assert rules != fusion.rules, "nothing would be wrong"
    return replace(fusion, rules=rules)


def pipeline(broken: Any) -> list[Any]:
    """The passes with one replaced by its broken likeness."""
    return [broken if one.name == broken.name else one for one in PIPELINE]


@dataclass(frozen=True)
class BrokenCarry(CarryResidual):
    """carry-residual that hands on the wrong operands."""

    which: tuple[int, int] = (1, 1)

    def run(self, program: Program) -> tuple[Program, list[Entry]]:
        """Apply, and break what the blocks return."""
        after, entries = super().run(program)
        blocks = tuple(
            block.replace(returns=tuple(block.returns[at] for at in self.which))
            for block in after.blocks
        )
        return after.model_copy(update={"blocks": blocks}), entries


QKV, GATE_UP, ACT, NORM, ATTENTION = (
    fusions.MERGE_QKV,
    fusions.MERGE_GATE_UP,
    fusions.ACT_MUL,
    fusions.ADD_RMS_NORM,
    QKV_ATTENTION,
)

MISPASSES: Sequence[Mispass] = (
    Mispass(
        "rows of v and k",
        LLAMA,
        swapped(QKV, "cat(@wq, @wk, @wv)", "cat(@wq, @wv, @wk)"),
        "linear",
    ),
    Mispass(
        "biases of v and k",
        BIASES,
        swapped(QKV, "cat(@bq, @bk, @bv)", "cat(@bq, @bv, @bk)"),
        "linear",
    ),
    Mispass("k is v", LLAMA, swapped(QKV, "%kh = heads(%k", "%kh = heads(%v"), "heads"),
    Mispass(
        "rows of up and gate",
        LLAMA,
        swapped(GATE_UP, "cat(@wg, @wu)", "cat(@wu, @wg)"),
        "linear",
    ),
    Mispass(
        "the other half is activated",
        GLM,
        swapped(GATE_UP, "activation(%gate,", "activation(%up,"),
        "activation",
    ),
    Mispass("another activation", LLAMA, swapped(ACT, "fn=$fn", "fn=relu"), "act_mul"),
    Mispass(
        "a sum twice",
        SANDWICH,
        swapped(NORM, "%x, %y, @w", "%x, %x, @w"),
        "add_rms_norm",
        0,
    ),
    Mispass("an eps", SANDWICH, swapped(NORM, "eps=$eps", "eps=0.5"), "add_rms_norm"),
    Mispass(
        "results swapped",
        SANDWICH,
        swapped(NORM, "%s, %h =", "%h, %s ="),
        "add_rms_norm",
    ),
    Mispass(
        "the activation of a product",
        GPT2,
        swapped(products.LINEAR_ACT, "fn=$fn", "fn=relu"),
        "linear_act",
    ),
    Mispass(
        "a residual of its own",
        LLAMA,
        swapped(products.LINEAR_ADD, "linear_add(%x, @w, %r, bias=@b)", "add(%r, %r)"),
        "add",
    ),
    Mispass(
        "the eps of a product's norm",
        LLAMA,
        swapped(products.RMS_NORM_LINEAR, "eps=$eps", "eps=0.5"),
        "rms_norm_linear",
    ),
    Mispass(
        "a bias of a product left out",
        BIASES,
        swapped(products.RMS_NORM_LINEAR, "bias=@b, ", ""),
        "rms_norm_linear",
    ),
    Mispass(
        "the bias of a product's norm left out",
        GPT2,
        swapped(products.LAYER_NORM_LINEAR, "norm_bias=@shift, ", ""),
        "layer_norm_linear",
    ),
    Mispass(
        "the eps of a product's LayerNorm",
        GPT2,
        swapped(products.LAYER_NORM_LINEAR, "eps=$eps", "eps=0.5"),
        "layer_norm_linear",
    ),
    Mispass(
        "another style",
        LLAMA,
        swapped(ATTENTION, "style=$style", "style=interleaved"),
        "qkv_attention",
    ),
    Mispass(
        "another scale",
        GPT2,
        swapped(ATTENTION, "scale=$scale", "scale=1.0"),
        "qkv_attention",
    ),
    Mispass(
        "another window",
        QWEN3,
        swapped(ATTENTION, "window=$window", "window=3"),
        "qkv_attention",
    ),
    Mispass(
        "head norms in each other's place",
        QWEN3,
        swapped(
            ATTENTION,
            "q_norm=@q_norm, k_norm=@k_norm",
            "q_norm=@k_norm, k_norm=@q_norm",
        ),
        "qkv_attention",
    ),
    Mispass(
        "sine for cosine",
        LLAMA,
        swapped(ATTENTION, "cos=%cos, sin=%sin", "cos=%sin, sin=%cos"),
        "qkv_attention",
    ),
    Mispass("a residual lost", SANDWICH, BrokenCarry(), "return"),
    Mispass("an output lost", SANDWICH, BrokenCarry(which=(0, 0)), "return"),
)
