"""Place the ops of a program on a CPU: C++, torch or the reference."""

from collections.abc import Sequence

from glmc.backends.cpu.kernels import CONSTANTS, KERNELS, VIEWS, unfit
from glmc.backends.cpu.plan import refusal
from glmc.backends.ledger import Place
from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op

_VIEW = Place("torch", "a view: nothing moves")
_ONCE = "runs once a call, and not in each layer"


def places(program: Program) -> Sequence[Place]:
    """Return the place of each op of a program, in their order."""
    why = refusal(program)
    return [
        Place("torch", why) if why else _place(program, graph, op)
        for graph in program.graphs
        for op in graph.ops
    ]


def _place(program: Program, graph: Graph, op: Op) -> Place:
    if graph is program.prefix_encoder:
        return Place("torch", "runs once, before the first call")
    if op.mnemonic in VIEWS:
        return _VIEW
    reason = unfit(program, graph, op)
    if reason is None:
        return Place("kernel")
    return Place("reference", reason) if graph.layers else Place("torch", _ONCE)


def usual(op: str) -> Place:
    """Return the place of an op in most models."""
    if op in VIEWS:
        return _VIEW
    if op in KERNELS or op in CONSTANTS:
        return Place(
            "kernel", "unless a layer has sizes or options that it does not take"
        )
    return Place("reference", f"{op}: no C++ is written for it")
