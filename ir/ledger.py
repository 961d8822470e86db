"""The ledger: every candidate of every fusion, applied or refused, and why.

And of every op of the last stage, where a backend runs it.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from glmc.ir.graph import Graph, Program
from glmc.ir.node import Node
from glmc.ir.op import Op


class Entry(Node):
    """What became of one candidate."""

    fusion: str
    graph: str
    layers: int
    """How many layers this graph stands for (1 for stem and head)."""
    status: Literal["applied", "refused", "absent"]
    """``absent``: no graph of the model holds the op that the fusion starts from."""
    at: str
    """The results of the candidate's ops."""
    reason: str
    launches_saved: int = 0
    """Kernel launches saved per layer and call."""
    bytes_saved: int = 0
    """Activation bytes not moved, per layer and token."""


Where = Literal["kernel", "own", "torch", "reference"]
"""What runs an op on a GPU: a kernel, one of the user's, torch by design, or the
reference for want of a kernel."""

RUN_BY: Mapping[Where, str] = {
    "kernel": "a kernel of kernels.py",
    "own": "a kernel of yours",
    "torch": "torch, by design",
    "reference": "reference.py, for want of a kernel",
}
"""The same as a phrase after "on a GPU: "."""


class Placement(Node):
    """Where a backend runs an op of the last stage."""

    op: str
    graph: str
    layers: int
    """How many layers this graph stands for (1 for stem and head)."""
    at: str
    """Its results."""
    where: Where
    reason: str
    """Why it has no kernel; empty where it has one."""


def fallen_back(placements: Iterable[Placement]) -> dict[str, str]:
    """Op to reason of those that run as the reference does, for want of a kernel."""
    return {row.op: row.reason for row in placements if row.where == "reference"}


def launches(ops: Iterable[Op]) -> int:
    """Kernel launches of some ops."""
    return sum(op.launches for op in ops)


def traffic(graph: Graph, ops: Iterable[Op]) -> int:
    """Activation bytes some ops read and write, per token; views move nothing."""
    moved = 0
    for op in ops:
        if op.launches:
            moved += sum(graph.types[name].nbytes() for name in op.values)
            moved += sum(result.type.nbytes() for result in op.results)
    return moved


def count(graph: Graph) -> int:
    """The layers a graph stands for."""
    return len(graph.layers) or 1


def totals(entries: Iterable[Entry]) -> tuple[int, int]:
    """(launches, bytes) saved in a whole model, per call and per token."""
    applied = [entry for entry in entries if entry.status == "applied"]
    return (
        sum(entry.launches_saved * entry.layers for entry in applied),
        sum(entry.bytes_saved * entry.layers for entry in applied),
    )


__all__ = [
    "RUN_BY",
    "Entry",
    "Placement",
    "Program",
    "Where",
    "count",
    "fallen_back",
    "launches",
    "totals",
    "traffic",
]
