"""What a ledger says for a target: what fusions save there, and what runs each op."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from glmc.ir.ledger import Entry
from glmc.ir.node import Node

Where = Literal["kernel", "own", "torch", "reference"]
"""What runs an op on a target's machine: a kernel, one of the user's, torch by design,
or the reference for want of a kernel."""

RUN_BY: Mapping[Where, str] = {
    "kernel": "a kernel of kernels.py",
    "own": "a kernel of yours",
    "torch": "torch, by design",
    "reference": "reference.py, for want of a kernel",
}
"""The same as a phrase after "on a GPU: "."""


@dataclass(frozen=True)
class Place:
    """Where an op runs, and why it has no kernel where it has none."""

    where: Where
    reason: str = ""


class Placement(Node):
    """Where an op of the last stage runs."""

    op: str
    graph: str
    layers: int
    """How many layers this graph stands for (1 for stem and head)."""
    at: str
    """Its results."""
    where: Where
    reason: str
    """Why it has no kernel; empty where it has one."""


class Row(Entry):
    """What became of a candidate, and what that saves on the target."""

    launches_saved: int = 0
    """Launches saved per layer and call; calls of torch, where there are no kernels."""

    def written(self) -> dict[str, Any]:
        """The row as it stands in ledger.json."""
        facts = self.model_dump(exclude={"replaced", "made", "bytes_saved"})
        return facts | {"bytes_saved": self.bytes_saved}


def fallen_back(placements: Iterable[Placement]) -> dict[str, str]:
    """Op to reason of those that run as the reference does, for want of a kernel."""
    return {row.op: row.reason for row in placements if row.where == "reference"}


def calls_of_torch(placements: Iterable[Placement]) -> int:
    """How many times a token runs an op as the reference does, in all layers."""
    return sum(row.layers for row in placements if row.where == "reference")


def totals(rows: Iterable[Row]) -> tuple[int, int]:
    """(launches, bytes) saved in a whole model, per call and per token."""
    applied = [row for row in rows if row.status == "applied"]
    return (
        sum(row.launches_saved * row.layers for row in applied),
        sum(row.bytes_saved * row.layers for row in applied),
    )
