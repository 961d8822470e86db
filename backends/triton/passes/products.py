"""Fusions of a matrix product with its neighbours, for the few rows of decoding.

With few rows a product takes as long as reading its weights; the norm before it and the
activation or sum after it cost a launch each and a round trip of the hidden state. With
many rows the kernels do them apart (see the backend). So these fusions are for models
that decode: an encoder has no few rows, and keeps its norms with the adds before them.

A product multiplies by floats or by codes; what it fuses with does not ask which, so
each rule stands once and is made for both.
"""

from collections.abc import Iterator

from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.ops import Add, LayerNorm, Linear, QuantizedLinear, RmsNorm
from glmc.ir.passes.rewrite import Candidate, Fusion, Match, Rule

_PRODUCTS = (Linear, QuantizedLinear)
_OPERANDS = (
    ("%y = linear(%{x}, @w, bias=@b?)", "bias=@b"),
    (
        """
            %y = quantized_linear(%{x}, @w, @scale, zeros=@zeros?, factor=@factor?,
                bias=@b?, bits=$bits, floats=$floats, divided=$divided)
        """,
        "bias=@b, scale=@scale, zeros=@zeros, factor=@factor, bits=$bits,"
        " floats=$floats, divided=$divided",
    ),
)
"""A product with floats and one with codes; what either leaves in a replacement."""
_ACTIVATED = (
    """
        %y = linear_act(%h, @w, scale=@scale?, zeros=@zeros?, factor=@factor?, bias=@b?,
            bits=$bits, floats=$floats, divided=$divided, fn=$fn, gated=$gated)
    """,
    "bias=@b, scale=@scale, zeros=@zeros, factor=@factor, bits=$bits, floats=$floats,"
    " divided=$divided, fn=$fn, gated=$gated",
)
"""A product that is activated already, of either kind."""


def _decodes(program: Program, graph: Graph, op: Op) -> bool:
    """Tell whether an op stands beside products, in a model that decodes token by
    token."""
    return program.decodes and any(isinstance(other, _PRODUCTS) for other in graph.ops)


def _reads(kind: type[Op]) -> Candidate:
    """Make the test for candidates: an op, in a model that decodes, that multiplies the
    result of a kind of norm."""

    def candidate(program: Program, graph: Graph, op: Op) -> bool:
        maker = graph.producers.get(op.values[0])
        return program.decodes and isinstance(maker, kind)

    return candidate


def _last_adds_agree(match: Match) -> str | None:
    """Give the reason to leave the last add of a layer alone: that of another layer
    follows no product, and all last adds must cross the border to the next layer in the
    same form."""
    (made,) = match.graph.ops[match.ops[-1]].outs
    blocks = match.program.blocks
    if match.graph.name not in {block.name for block in blocks}:
        return None
    others = [block.name for block in blocks if not _ends_in_a_product(block)]
    if made != match.graph.returns[0] or not others:
        return None
    return (
        f"{others[0]} does not end in linear + add, and last adds are carried together"
    )


def _ends_in_a_product(block: Graph) -> bool:
    last = block.producers.get(block.returns[0])
    if not isinstance(last, Add):
        return True
    return any(isinstance(block.producers.get(n), _PRODUCTS) for n in last.values)


def _followed(then: str, replace: str) -> Iterator[Rule]:
    """Yield the rules for a product, ``%y``, and the op that reads it."""
    for product, operands in _OPERANDS:
        match = f"{product.format(x='x')}\n{then}"
        yield Rule(match=match, replace=replace.format(operands=operands))


def _normed(norm: str, replace: str) -> Iterator[Rule]:
    """Yield the rules for a product of a norm's result, ``%h``, activated or not."""
    plain = ((product.format(x="h"), operands) for product, operands in _OPERANDS)
    for product, operands in (_ACTIVATED, *plain):
        match = f"{norm}\n{product}"
        yield Rule(match=match, replace=replace.format(operands=operands))


LINEAR_ACT = Fusion(
    name="linear-act",
    doc="A product is activated, and gated, before it is written.",
    rules=(
        *_followed(
            "%ff = act_mul(%y, fn=$fn)",
            "%ff = linear_act(%x, @w, {operands}, fn=$fn, gated=true)",
        ),
        *_followed(
            "%ff = activation(%y, fn=$fn)",
            "%ff = linear_act(%x, @w, {operands}, fn=$fn)",
        ),
    ),
    candidate=_decodes,
    wanted="follows a product of a decode step",
)

LINEAR_ADD = Fusion(
    name="linear-add",
    doc="A product is added to the residual stream as it is written.",
    rules=tuple(
        _followed("%s = add(%r, %y)", "%s = linear_add(%x, @w, %r, {operands})")
    ),
    check=_last_adds_agree,
    candidate=_decodes,
    wanted="stands beside a product of a decode step",
)

RMS_NORM_LINEAR = Fusion(
    name="rms-norm-linear",
    doc="The product norms its operand as it reads it.",
    rules=tuple(
        _normed(
            "%h = rms_norm(%x, @norm, eps=$eps, weight_in=$place, unit_offset=$offset)",
            """
                %y = rms_norm_linear(%x, @norm, @w, {operands}, eps=$eps,
                    weight_in=$place, unit_offset=$offset)
            """,
        )
    ),
    candidate=_reads(RmsNorm),
    wanted="reads an rms_norm in a decode step",
)

LAYER_NORM_LINEAR = Fusion(
    name="layer-norm-linear",
    doc="The product norms its operand as it reads it.",
    rules=tuple(
        _normed(
            "%h = layer_norm(%x, @norm, bias=@shift?, eps=$eps, unit_offset=$offset)",
            """
                %y = layer_norm_linear(%x, @norm, @w, norm_bias=@shift, {operands},
                    eps=$eps, unit_offset=$offset)
            """,
        )
    ),
    candidate=_reads(LayerNorm),
    wanted="reads a layer_norm in a decode step",
)
