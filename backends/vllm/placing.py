"""Say which ops of a build vLLM runs by something of its own, as rows of the ledger."""

from collections.abc import Iterator

from glmc.backends.ledger import Placement
from glmc.backends.target import Target
from glmc.backends.vllm.counterparts import ATTENDING, BY_ROW, LATENT
from glmc.ir.graph import Graph, Program
from glmc.ir.ledger import count
from glmc.ir.op import Op
from glmc.ir.ops import (
    LayerNormLinear,
    Linear,
    LinearAct,
    LinearAdd,
    RmsNormLinear,
)

PRODUCTS = (LayerNormLinear, Linear, LinearAct, LinearAdd, RmsNormLinear)
"""Ops with a matrix of floats that vLLM may lay out anew."""


def engine_placements(program: Program, on: Target) -> list[Placement]:
    """Return a row for each op that vLLM's own layers or products stand for."""
    return [
        Placement(
            op=op.mnemonic,
            graph=graph.name,
            layers=count(graph),
            at=", ".join(f"%{name}" for name in op.outs),
            where="engine",
            reason=reason,
        )
        for graph in program.graphs
        for op, reason in _engines(graph, on)
    ]


def _engines(graph: Graph, on: Target) -> Iterator[tuple[Op, str]]:
    for op in graph.ops:
        if isinstance(op, ATTENDING):
            yield op, "its attention, over pages of keys and values"
        elif isinstance(op, LATENT):
            yield op, "its latent attention, over pages of latents"
        elif isinstance(op, tuple(BY_ROW)):
            yield op, "pages of its own hold the states of each request"
        elif is_laid_out(op) and on.engine_products:
            where = ", ".join(on.engine_products)
            yield op, f"its products, with weights as it lays them out (on {where})"


def is_laid_out(op: Op) -> bool:
    """Tell whether an op multiplies by a matrix of floats without adding a bias, which
    vLLM may lay out."""
    plain = isinstance(op, PRODUCTS) and op.bias is None
    return plain and getattr(op, "bits", None) is None
