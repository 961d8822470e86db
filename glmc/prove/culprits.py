"""A culprit, and the comparisons that lead to one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from glmc.ir.graph import Graph, Program
from glmc.prove.comparing import TOLERANCES, Answer, Scenario, difference
from glmc.prove.probing import Place

TOLERANCE = TOLERANCES["float32"]
READING = "reading"
"""The stage of a culprit where the lowered program is already wrong."""


@dataclass(frozen=True)
class Culprit:
    """The part that is to blame for a difference."""

    stage: str
    """``reading``, a pass, or a file of the build."""
    place: Place | None
    """``stem``, a layer's number, ``head``, or None where it cannot be told."""
    op: str
    """The op's line in the dump; empty where it cannot be told."""
    why: str
    suspects: list[str] = field(default_factory=list)
    """Other ops that no value of the reference tells apart from it."""
    hints: list[str] = field(default_factory=list)
    """Lines of the spec, or files, to look at."""


def first_row(
    right: Sequence[tuple[Scenario, Answer]], mine: Sequence[tuple[Scenario, Answer]]
) -> tuple[int, str] | None:
    """Find (scenario, row) of the first row that departs, layers before logits."""
    found = []
    for at, ((given, want), (_, got)) in enumerate(zip(right, mine, strict=True)):
        rows = [name for name in got if name in want]
        for n, name in enumerate(rows):
            if departs(got[name], want[name], given):
                found.append((math.inf if name == "logits" else n, at, name))
                break
    return min(found)[1:] if found else None


def departs(got: torch.Tensor, want: torch.Tensor, given: Scenario) -> bool:
    """Tell whether values differ where the scenario has no padding."""
    real = given.real
    if got.shape[:2] != want.shape[:2] or got.shape[:2] != real.shape:
        return got.shape != want.shape or difference(got, want) > TOLERANCE
    return difference(got[real], want[real]) > TOLERANCE


def places(row: str, program: Program) -> Iterator[tuple[Place, Graph]]:
    """Yield the places where a row that departs may have gone wrong, in the order of
    execution."""
    yield "stem", program.stem
    if row.startswith("layer "):
        layer = int(row.split()[1])
        yield layer, program.schedule()[layer]
    else:
        yield "head", program.head
