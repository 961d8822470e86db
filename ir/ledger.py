"""The ledger: every candidate of every fusion, applied or refused, and why."""

from collections.abc import Iterable
from typing import Literal

from glmc.ir.graph import Graph
from glmc.ir.node import Node
from glmc.ir.op import Op
from glmc.ir.types import TensorType


class Entry(Node):
    """One candidate of a fusion: applied or refused, and why."""

    fusion: str
    graph: str
    layers: int
    """The number of layers this graph stands for (1 for stem and head)."""
    status: Literal["applied", "refused", "absent"]
    """``absent``: no graph of the model holds the op that the fusion starts from."""
    at: str
    """The results of the candidate's ops."""
    reason: str
    bytes_saved: int = 0
    """Activation bytes not moved, per layer and token."""
    replaced: tuple[str, ...] = ()
    """The mnemonics of the ops that were replaced, of one layer."""
    made: tuple[str, ...] = ()
    """The mnemonics of the new ops; a target tells from both what it saves."""


def traffic(graph: Graph, ops: Iterable[Op]) -> int:
    """Count the activation bytes some ops read and write, per token; views move
    nothing."""
    moving = [op for op in ops if not op.is_view]
    types = [graph.types[n] for op in moving for n in (*op.values, *op.outs)]
    types += 2 * [graph.types[getattr(op, f)] for op in moving for f in op.between]
    return sum(each.nbytes() for each in types if isinstance(each, TensorType))


def count(graph: Graph) -> int:
    """Return the number of layers a graph stands for."""
    return len(graph.layers) or 1
