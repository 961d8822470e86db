"""Fusions of a matrix product with its neighbours, for the few rows of decoding.

With few rows a product takes as long as reading its weights; the norm before it and the
activation or sum after it cost a launch each and a round trip of the hidden state. With
many rows the kernels do them apart (see the backend). So these fusions are for models
that decode: an encoder has no few rows, and keeps its norms with the adds before them.
"""

from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.ops import Add, LayerNorm, Linear, RmsNorm
from glmc.ir.passes.rewrite import Candidate, Fusion, Match, Rule


def _decodes(program: Program, graph: Graph, op: Op) -> bool:
    """Whether an op stands with linears, in a model that decodes token by token."""
    cached = any(block.kv for block in program.blocks)
    return cached and any(isinstance(other, Linear) for other in graph.ops)


def _reads(kind: type[Op]) -> Candidate:
    """Whether an op of a model that decodes multiplies what a kind of norm made."""

    def candidate(program: Program, graph: Graph, op: Op) -> bool:
        maker = graph.producers.get(op.values[0])
        cached = any(block.kv for block in program.blocks)
        return cached and isinstance(maker, kind)

    return candidate


def _last_adds_agree(match: Match) -> str | None:
    """The last adds of all layers go with their products, or all over the border."""
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
    return any(isinstance(block.producers.get(name), Linear) for name in last.values)


LINEAR_ACT = Fusion(
    name="linear-act",
    doc="A product is activated, and gated, before it is written.",
    rules=(
        Rule(
            match="""
                %y = linear(%x, @w, bias=@b?)
                %ff = act_mul(%y, fn=$fn)
            """,
            replace="%ff = linear_act(%x, @w, bias=@b, fn=$fn, gated=true)",
        ),
        Rule(
            match="""
                %y = linear(%x, @w, bias=@b?)
                %ff = activation(%y, fn=$fn)
            """,
            replace="%ff = linear_act(%x, @w, bias=@b, fn=$fn)",
        ),
    ),
    candidate=_decodes,
    wanted="follows a linear of a decode step",
)

LINEAR_ADD = Fusion(
    name="linear-add",
    doc="A product is added to the residual stream as it is written.",
    rules=(
        Rule(
            match="""
                %y = linear(%x, @w, bias=@b?)
                %s = add(%r, %y)
            """,
            replace="%s = linear_add(%x, @w, %r, bias=@b)",
        ),
    ),
    check=_last_adds_agree,
    candidate=_decodes,
    wanted="stands beside a linear of a decode step",
)

_RMS_NORM = """
    %h = rms_norm(%x, @norm, eps=$eps, weight_in=$weight_in, unit_offset=$offset)
"""
_RMS = "eps=$eps, weight_in=$weight_in, unit_offset=$offset"

RMS_NORM_LINEAR = Fusion(
    name="rms-norm-linear",
    doc="The product norms its operand as it reads it.",
    rules=(
        Rule(
            match=_RMS_NORM + "%y = linear_act(%h, @w, bias=@b?, fn=$fn, gated=$gated)",
            replace=f"""
                %y = rms_norm_linear(%x, @norm, @w, bias=@b, {_RMS}, fn=$fn,
                    gated=$gated)
            """,
        ),
        Rule(
            match=_RMS_NORM + "%y = linear(%h, @w, bias=@b?)",
            replace=f"%y = rms_norm_linear(%x, @norm, @w, bias=@b, {_RMS})",
        ),
    ),
    candidate=_reads(RmsNorm),
    wanted="reads an rms_norm in a decode step",
)

_LAYER_NORM = """
    %h = layer_norm(%x, @norm, bias=@shift?, eps=$eps, unit_offset=$offset)
"""
_LAYER = "norm_bias=@shift, bias=@b, eps=$eps, unit_offset=$offset"

LAYER_NORM_LINEAR = Fusion(
    name="layer-norm-linear",
    doc="The product norms its operand as it reads it.",
    rules=(
        Rule(
            match=_LAYER_NORM
            + "%y = linear_act(%h, @w, bias=@b?, fn=$fn, gated=$gated)",
            replace=f"""
                %y = layer_norm_linear(%x, @norm, @w, {_LAYER}, fn=$fn, gated=$gated)
            """,
        ),
        Rule(
            match=_LAYER_NORM + "%y = linear(%h, @w, bias=@b?)",
            replace=f"%y = layer_norm_linear(%x, @norm, @w, {_LAYER})",
        ),
    ),
    candidate=_reads(LayerNorm),
    wanted="reads a layer_norm in a decode step",
)
