"""Divide a program: what C++ computes, and the steps that stay with the reference."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from glmc.backends.cpu.kernels import CONSTANTS, is_rows, unfit
from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.state import StateType
from glmc.ir.types import TensorType


@dataclass(frozen=True)
class Run:
    """Ops that follow one another and run in one place."""

    ops: tuple[Op, ...]
    step: int | None
    """The number of the step of the reference; None: C++."""


@dataclass(frozen=True)
class Step:
    """Ops that the reference runs, between two pieces of C++.

    ``given`` and ``made`` are rows that lie with the C++; ``own`` values that only such
    steps know, ``kept`` those of ``made`` and more that they leave for one another.
    """

    number: int
    graph: Graph
    ops: tuple[Op, ...]
    given: tuple[str, ...]
    own: tuple[str, ...]
    made: tuple[str, ...]
    kept: tuple[str, ...]


def refusal(program: Program) -> str | None:
    """Say why no part of a program is computed by C++, or None."""
    if not program.decodes:
        return "an encoder reads a text at once, which torch's own products do best"
    if program.world > 1:
        return "several devices share its work, and wait for one another"
    if program.sliced:
        return "every layer is given a part of a value of the stem"
    for name in program.carried:
        kind = program.blocks[0].types[name]
        if not is_rows(kind):
            return f"%{name} {kind}, which layers hand on, is no row of numbers a token"
    return None


class Plan:
    """The runs of each graph of a program, and the steps of the reference."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graphs = (program.stem, *program.blocks, program.head)
        self.steps: list[Step] = []
        self._runs = {id(graph): tuple(self._divide(graph)) for graph in self.graphs}

    def runs(self, graph: Graph) -> tuple[Run, ...]:
        """Return the runs of a graph, in order."""
        return self._runs[id(graph)]

    def native(self, graph: Graph) -> list[Op]:
        """List the ops of a graph that C++ computes."""
        return [op for run in self.runs(graph) if run.step is None for op in run.ops]

    def _divide(self, graph: Graph) -> Iterator[Run]:
        program = self.program
        reference = {id(op): unfit(program, graph, op) is not None for op in graph.ops}
        for falls_back, ops in groupby(graph.ops, key=lambda op: reference[id(op)]):
            run = tuple(ops)
            if not falls_back:
                yield Run(run, None)
                continue
            self.steps.append(self._step(graph, run))
            yield Run(run, len(self.steps) - 1)

    def _step(self, graph: Graph, ops: Sequence[Op]) -> Step:
        made = [name for op in ops for name in op.outs]
        inside = set(made)
        read = dict.fromkeys(
            name for op in ops for name in op.values if name not in inside
        )
        rows = self.rows(graph)
        wanted = {name for op in graph.ops if op not in ops for name in op.values}
        wanted |= set(graph.returns)
        return Step(
            number=len(self.steps),
            graph=graph,
            ops=tuple(ops),
            given=tuple(name for name in read if name in rows),
            own=tuple(name for name in read if name not in rows),
            made=tuple(name for name in made if name in rows and name in wanted),
            kept=tuple(
                name
                for name in made
                if name in wanted
                and name not in rows
                and not isinstance(graph.types[name], StateType)
            ),
        )

    def rows(self, graph: Graph) -> set[str]:
        """Name the values of a graph that lie with the C++."""
        return {name for name, kind in graph.types.items() if is_rows(kind)}

    @cached_property
    def constants(self) -> Mapping[str, str]:
        """Map values that are computed once to the call of reference.py."""
        return {
            op.outs[0]: CONSTANTS[op.mnemonic].format_map(_literals(op))
            for graph in self.graphs
            for op in graph.ops
            if op.mnemonic in CONSTANTS
        }


def _literals(op: Op) -> dict[str, str]:
    return {name: repr(getattr(op, name)) for name in op.attribute_fields()}


def literals(op: Op) -> dict[str, str]:
    """Return the attributes of an op as Python writes them."""
    return _literals(op)


def width(kind: TensorType) -> int:
    """Count the numbers of a token in a row of values."""
    return math.prod(int(dim) for dim in kind.dims[2:])
