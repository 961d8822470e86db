"""The ledger of a target: the savings of fusions there, and what runs each op."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from glmc.ir.ledger import Entry
from glmc.ir.node import Node

Where = Literal["kernel", "own", "torch", "reference", "engine"]
"""The implementation that runs an op on a target's machine: a kernel, one of the
user's, torch by design, the reference for want of a kernel, or an engine that serves
the build."""

RUN_BY: Mapping[Where, str] = {
    "kernel": "a kernel of kernels.py",
    "own": "a kernel of yours",
    "torch": "torch, by design",
    "reference": "reference.py, for want of a kernel",
    "engine": "the engine that serves the build",
}
"""The same as a phrase after "on a GPU: "."""


@dataclass(frozen=True)
class Place:
    """The implementation that runs an op, and the reason if it has no kernel."""

    where: Where
    reason: str = ""


class Placement(Node):
    """The implementation that runs an op of the last stage."""

    op: str
    graph: str
    layers: int
    """The number of layers this graph stands for (1 for stem and head)."""
    at: str
    """Its results."""
    where: Where
    reason: str
    """The reason why it has no kernel; empty where it has one."""


class Row(Entry):
    """A candidate of a fusion, and what its outcome saves on the target."""

    launches_saved: int = 0
    """Launches saved per layer and call; calls of torch, where there are no kernels."""

    def written(self) -> dict[str, Any]:
        """Return the row as it stands in ledger.json."""
        facts = self.model_dump(exclude={"replaced", "made", "bytes_saved"})
        return facts | {"bytes_saved": self.bytes_saved}


def fallen_back(placements: Iterable[Placement]) -> dict[str, str]:
    """Map ops that run as the reference does, for want of a kernel, to the reason."""
    return {row.op: row.reason for row in placements if row.where == "reference"}


def calls_of_torch(placements: Iterable[Placement]) -> int:
    """Count the calls of reference ops for a token, in all layers."""
    return sum(row.layers for row in placements if row.where == "reference")


def totals(rows: Iterable[Row]) -> tuple[int, int]:
    """Return (launches, bytes) saved in a whole model, per call and per token."""
    applied = [row for row in rows if row.status == "applied"]
    return (
        sum(row.launches_saved * row.layers for row in applied),
        sum(row.bytes_saved * row.layers for row in applied),
    )
