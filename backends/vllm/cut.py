"""Cut the head of a model where vLLM does: hidden states, and logits of a few rows."""

from dataclasses import dataclass

from glmc.ir.graph import Graph
from glmc.ir.op import Op, Result
from glmc.ir.ops import (
    LayerNorm,
    LayerNormLinear,
    Linear,
    QuantizedLinear,
    RmsNorm,
    RmsNormLinear,
)
from glmc.ir.types import Type

NORMED = "normed_for_head"
"""The name of a norm's result that a fused product kept to itself."""


@dataclass(frozen=True)
class Cut:
    """A head in two: the ops before its last product, and from there on."""

    body: Graph
    """Ends in the hidden states, its one result."""
    head: Graph
    """Takes the hidden states to logits."""
    hidden: str
    """The name of the hidden states."""


def cut(head: Graph) -> Cut:
    """Cut a head before its last product, which makes the logits.

    A norm that was fused with the product is done before: vLLM's own models return what
    was normed, and what drafts and pools reads that.
    """
    ops = [part for op in head.ops for part in _apart(op, head)]
    last = max(at for at, op in enumerate(ops) if op.multiplies)
    hidden = next(name for field, sigil, name in ops[last].operands() if sigil == "%")
    body = head.replace(ops=tuple(ops[:last]), returns=(hidden,))
    return Cut(body, head.replace(ops=tuple(ops[last:])), hidden)


def _apart(op: Op, head: Graph) -> list[Op]:
    """Return a product with a norm before it as two ops, any other as it is."""
    match op:
        case RmsNormLinear(fn=None):
            norm: Op = RmsNorm(
                x=op.x,
                weight=op.norm,
                eps=op.eps,
                weight_in=op.weight_in,
                unit_offset=op.unit_offset,
                results=_normed(head.types[op.x]),
            )
        case LayerNormLinear(fn=None):
            norm = LayerNorm(
                x=op.x,
                weight=op.norm,
                bias=op.norm_bias,
                eps=op.eps,
                unit_offset=op.unit_offset,
                results=_normed(head.types[op.x]),
            )
        case _:
            return [op]
    return [norm, _product(op)]


def _normed(like: Type) -> tuple[Result, ...]:
    return (Result(name=NORMED, type=like),)


def _product(op: RmsNormLinear | LayerNormLinear) -> Op:
    """Return the product of the two, of what was normed."""
    if op.bits is None or op.scale is None:
        return Linear(x=NORMED, weight=op.weight, bias=op.bias, results=op.results)
    return QuantizedLinear(
        x=NORMED,
        weight=op.weight,
        scale=op.scale,
        zeros=op.zeros,
        factor=op.factor,
        bias=op.bias,
        bits=op.bits,
        floats=op.floats,
        divided=op.divided,
        results=op.results,
    )
