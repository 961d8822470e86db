"""Carry the last add of a layer to the next layer, where a norm can be fused with it.

A layer ends in ``out = add(x1, mlp)`` and the next one begins with a norm of that sum.
The two are in different graphs, so no fusion can match both. This pass lets the layer
hand on both operands, ``(x, delta)``; the add moves to the start of the next layer and
of the head. The first layer receives zeros as delta, which adds nothing, exactly.
"""

from dataclasses import dataclass
from typing import Literal

from glmc.ir.build import infer
from glmc.ir.graph import Graph, Input, Program
from glmc.ir.ledger import Entry, count
from glmc.ir.op import Op
from glmc.ir.ops import Add, LayerNorm, RmsNorm, ZerosLike


@dataclass(frozen=True)
class CarryResidual:
    """The pass; same interface as a :class:`~glmc.ir.passes.rewrite.Fusion`."""

    name: str = "carry-residual"
    doc: str = "The last add of a layer moves to the next, where a norm can take it."

    def run(self, program: Program) -> tuple[Program, list[Entry]]:
        """Apply to the whole program, or to nothing."""
        if not any(map(_last_add, program.blocks)):
            return program, [_absent(self.name)]
        reason = _refusal(program)
        if reason:
            return program, [
                _entry(self.name, block, reason, status="refused")
                for block in program.blocks
            ]
        after = _carried(program)
        taken = "the layer hands on both operands of its last add"
        return after, [
            *(_entry(self.name, block, taken) for block in program.blocks),
            _entry(self.name, program.stem, "zeros for the first layer", "zeros_like"),
            _entry(self.name, program.head, "the add of the last layer", "add"),
        ]


def _absent(name: str) -> Entry:
    reason = "no layer ends in an add"
    return Entry(fusion=name, graph="", layers=0, status="absent", at="", reason=reason)


def _last_add(block: Graph) -> Add | None:
    last = block.producers.get(block.returns[0])
    return last if isinstance(last, Add) else None


def _entry(
    name: str,
    graph: Graph,
    reason: str,
    *made: str,
    status: Literal["applied", "refused"] = "applied",
) -> Entry:
    return Entry(
        fusion=name,
        graph=graph.name,
        layers=count(graph),
        status=status,
        at=f"%{graph.returns[0]}",
        reason=reason,
        made=made,
    )


def _refusal(program: Program) -> str | None:
    for block in program.blocks:
        if not _last_add(block):
            return f"{block.name} does not end in an add"
        if block.users(block.returns[0]):
            return f"the last sum of {block.name} is read before it is returned"
    for graph in (*program.blocks, program.head):
        first = graph.inputs[0].name
        if not any(isinstance(op, (RmsNorm, LayerNorm)) for op in graph.users(first)):
            return f"{graph.name} does not begin with a norm"
    return None


def _carried(program: Program) -> Program:
    stem = program.stem
    x = stem.returns[0]
    zeros = infer(
        ZerosLike, {"x": x}, ("delta",), lambda _, n: stem.types[n], stem.types
    )
    delta = zeros.outs[0]
    stem = stem.replace(ops=(*stem.ops, zeros), returns=(x, delta, *stem.returns[1:]))
    blocks = tuple(_ending(_beginning(block, delta), delta) for block in program.blocks)
    head = _beginning(program.head, delta)
    return program.model_copy(update={"stem": stem, "blocks": blocks, "head": head})


def _beginning(graph: Graph, delta: str) -> Graph:
    """Take ``(x, delta)`` and add them first; readers of x read the sum."""
    x = graph.inputs[0]
    inputs = (x, Input(name=delta, type=x.type), *graph.inputs[1:])
    types = {**graph.types, delta: x.type}
    fields = {"x": x.name, "y": delta}
    add = infer(Add, fields, ("x0",), lambda _, name: types[name], types)
    total = add.outs[0]
    ops = tuple(_reading(op, x.name, total) for op in graph.ops)
    return graph.replace(inputs=inputs, ops=(add, *ops))


def _reading(op: Op, old: str, new: str) -> Op:
    """Replace the op's reads of one value by reads of another."""
    operands = [(field, name) for field, sigil, name in op.operands() if sigil == "%"]
    changed = {field: new for field, name in operands if name == old}
    return op.model_copy(update=changed) if changed else op


def _ending(graph: Graph, delta: str) -> Graph:
    """Return the operands of the last add from the graph instead of the sum."""
    last = graph.producers[graph.returns[0]]
    ops = tuple(op for op in graph.ops if op is not last)
    return graph.replace(ops=ops, returns=(*last.values, *graph.returns[1:]))
