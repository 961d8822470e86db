"""Carry the last add of a layer to the next layer, where a norm can be fused with it.

A layer ends in ``out = add(x1, mlp)`` and the next one begins with a norm of that sum.
The two are in different graphs, so no fusion can match both. This pass lets the layer
hand on both operands, ``(x, delta)``; the add moves to the start of the next layer and
of the head. The first layer receives zeros as delta, which adds nothing, exactly.

Where every layer's delta is a sum of all ranks, each rank hands on its summand, and the
sum moves along with the add: it can be fused with both. A stem that ends in such a sum
hands on zeros and the summand, so that there are as many sums as before.
"""

from dataclasses import dataclass
from typing import Literal

from glmc.ir.build import infer, unique
from glmc.ir.graph import Graph, Input, Program
from glmc.ir.ledger import Entry, count
from glmc.ir.op import Op
from glmc.ir.ops import Add, AllReduce, LayerNorm, RmsNorm, ZerosLike, ZerosSummand
from glmc.ir.placement import PARTIAL, REPLICATED
from glmc.ir.types import Type, placed


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
        summed = all(map(_last_sum, program.blocks))
        after = _carried(program, summed)
        taken = "the layer hands on both operands of its last add"
        taken += ", and the sum of all ranks is the next one's" if summed else ""
        stem, zeros = "zeros for the first layer", ZerosLike.mnemonic
        if summed:
            stem += ", which adds up the ranks' rows" if _stem_sum(program) else ""
            zeros = zeros if _stem_sum(program) else ZerosSummand.mnemonic
        return after, [
            *(_entry(self.name, block, taken) for block in program.blocks),
            _entry(self.name, program.stem, stem, zeros),
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


def _last_sum(block: Graph) -> AllReduce | None:
    """Return the sum of all ranks that the last add alone reads, if there is one."""
    last = _last_add(block)
    made = last and block.producers.get(last.y)
    if not isinstance(made, AllReduce) or last is None or last.x == last.y:
        return None
    return made if block.users(last.y) == [last] else None


def _stem_sum(program: Program) -> AllReduce | None:
    """Return the sum of all ranks that a stem ends in, if nothing else reads it or its
    summands."""
    stem = program.stem
    x = stem.returns[0]
    made = stem.producers.get(x)
    if not isinstance(made, AllReduce) or stem.returns.count(x) > 1 or stem.users(x):
        return None
    return made if stem.users(made.x) == [made] else None


def _carried(program: Program, summed: bool) -> Program:
    """Move the last add of every layer, and the sum of all ranks before it where
    ``summed``."""
    last = _stem_sum(program) if summed else None
    stem = _parted(program.stem, last) if last else _zeroed(program.stem, summed)
    delta = stem.returns[1]
    blocks = tuple(
        _ending(_beginning(block, delta, summed), summed) for block in program.blocks
    )
    head = _beginning(program.head, delta, summed)
    return program.model_copy(update={"stem": stem, "blocks": blocks, "head": head})


def _zeroed(stem: Graph, summed: bool) -> Graph:
    """Hand on x, and zeros that add nothing."""
    x = stem.returns[0]
    cls = ZerosSummand if summed else ZerosLike
    zeros = infer(cls, {"x": x}, ("delta",), lambda _, n: stem.types[n], stem.types)
    returns = (x, *zeros.outs, *stem.returns[1:])
    return stem.replace(ops=(*stem.ops, zeros), returns=returns)


def _parted(stem: Graph, last: AllReduce) -> Graph:
    """Hand on zeros in the place of the sum that the stem ends in, and its summand."""
    delta, maker = unique("delta", stem.types), stem.producers[last.x]
    results = (
        result.model_copy(update={"name": delta}) if result.name == last.x else result
        for result in maker.results
    )
    renamed = maker.model_copy(update={"results": tuple(results)})
    type_of = stem.types[last.x]
    zeros = infer(ZerosLike, {"x": delta}, last.outs, lambda *_: type_of, ())
    other = {id(maker): renamed, id(last): zeros}
    ops = tuple(other.get(id(op), op) for op in stem.ops)
    return stem.replace(ops=ops, returns=(*last.outs, delta, *stem.returns[1:]))


def _beginning(graph: Graph, delta: str, summed: bool) -> Graph:
    """Take ``(x, delta)`` and add them first; readers of x read the sum."""
    x = graph.inputs[0]
    type_of = placed(x.type, PARTIAL if summed else REPLICATED)
    inputs = (x, Input(name=delta, type=type_of), *graph.inputs[1:])
    types: dict[str, Type] = {**graph.types, delta: type_of}
    made: list[Op] = []

    def make(cls: type[Op], fields: dict[str, str], name: str) -> str:
        op = infer(cls, fields, (name,), lambda _, n: types[n], types)
        made.append(op)
        types.update({result.name: result.type for result in op.results})
        return op.outs[0]

    other = make(AllReduce, {"x": delta}, f"{delta}_sum") if summed else delta
    total = make(Add, {"x": x.name, "y": other}, "x0")
    ops = tuple(_reading(op, x.name, total) for op in graph.ops)
    return graph.replace(inputs=inputs, ops=(*made, *ops))


def _reading(op: Op, old: str, new: str) -> Op:
    """Replace the op's reads of one value by reads of another."""
    operands = [(field, name) for field, sigil, name in op.operands() if sigil == "%"]
    changed = {field: new for field, name in operands if name == old}
    return op.model_copy(update=changed) if changed else op


def _ending(graph: Graph, summed: bool) -> Graph:
    """Return the operands of the last add from the graph instead of the sum; where
    ``summed``, this rank's summand of the second."""
    last = graph.producers[graph.returns[0]]
    gone, given = [last], last.values
    made = _last_sum(graph) if summed else None
    if made is not None:
        gone, given = [last, made], (last.values[0], made.x)
    ops = tuple(op for op in graph.ops if op not in gone)
    return graph.replace(ops=ops, returns=(*given, *graph.returns[1:]))
