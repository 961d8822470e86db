"""Emit a program as C++: a line for each op, as in model.py."""

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from glmc.backends.cpu.kernels import CONSTANTS, FACTOR, KERNELS, VIEWS, is_rows
from glmc.backends.cpu.layout import (
    LOGITS,
    Layout,
    cpp,
    member,
    number,
)
from glmc.backends.cpu.plan import Plan, Step, width
from glmc.backends.emit import class_name
from glmc.ir.graph import Graph
from glmc.ir.op import Op
from glmc.ir.state import KvType, StateType, TokenType
from glmc.ir.types import TensorType

LONGEST = 96
_INCLUDED = re.compile(r'^#include "(.*)"$', re.MULTILINE)


class Body:
    """The statements of a graph's function."""

    def __init__(self, plan: Plan, layout: Layout, graph: Graph) -> None:
        self.plan = plan
        self.layout = layout
        self.graph = graph
        self.names = {value.name: cpp(value.name) for value in graph.given}
        self.names |= {s.name: f"state.{cpp(s.name)}" for s in graph.states}
        for known in ("ids", "pos", "prefix"):
            self.names[known] = f"call.{known}"
        self.results: dict[str, str] = {}
        """Values that have a place already, such as what the function returns."""

    def lines(self) -> Iterator[str]:
        """Yield the statements, without indentation."""
        for run in self.plan.runs(self.graph):
            if run.step is not None:
                yield from self._step(self.plan.steps[run.step])
            else:
                for op in run.ops:
                    yield from self._op(op)

    def _op(self, op: Op) -> Iterator[str]:
        if op.mnemonic in CONSTANTS:
            self.names[op.outs[0]] = f"model.{cpp(op.outs[0])}"
            return
        if op.mnemonic in VIEWS:
            yield from self._view(op)
            return
        for result in op.results:
            yield from self._place(result.name)
        kernel = KERNELS[op.mnemonic]
        required = op.operand_fields()
        operands = [
            self._operand(sigil, name)
            for field, sigil, name in op.operands()
            if required[field][1]
        ]
        made = [
            self.names[result.name]
            for result in op.results
            if not isinstance(result.type, StateType)
        ]
        given = ["call", *made, *operands, *self._options(op)]
        yield from broken(f"ops::{kernel.name or op.mnemonic}(", given, ");")

    def _place(self, name: str) -> Iterator[str]:
        """Give a result its memory; a state that was written is the state."""
        kind = self.graph.types[name]
        if isinstance(kind, StateType):
            self.names[name] = self._written(name)
        elif name in self.results:
            self.names[name] = self.results[name]
        else:
            self.names[name] = cpp(name)
            yield f"Rows {cpp(name)} = {make(kind)};"

    def _written(self, name: str) -> str:
        """Return the state that a value is, after a write."""
        op = self.graph.producers[name]
        return self.names[
            next(of for _, access, of in op.states() if access == "write")
        ]

    def _view(self, op: Op) -> Iterator[str]:
        x = self.names[op.values[0]]
        at = 0
        for result in op.results:
            name, n = cpp(result.name), width(result.type)
            self.names[result.name] = name
            if op.mnemonic == "heads":
                view = f"heads_of({x}, {result.type.dims[-2]})"
            else:
                view = f"channels({x}, {at}, {n})"
            at += n
            yield f"Rows {name} = {view};"

    def _operand(self, sigil: str, name: str) -> str:
        if sigil == "%":
            return self.names[name]
        owner = "w" if self.graph.layers and self.graph.param(name) else "model"
        return f"{owner}.{cpp(name)}"

    def _options(self, op: Op) -> list[str]:
        """Return the braces with what may be left out and the attributes, if any."""
        kernel = KERNELS[op.mnemonic]
        operands = {field: (sigil, name) for field, sigil, name in op.operands()}
        said = dict(op.attributes())
        found = []
        if kernel.constant:
            found.append(f".{kernel.constant[1]} = model.{cpp(op.outs[0])}_frequencies")
            factor = FACTOR.get(op.mnemonic)
            said = {"factor": said[factor]} if factor in said else {}
        for name in kernel.options:
            if name in operands:
                found.append(f".{name} = {self._operand(*operands[name])}")
            elif said.get(name) is not None:
                found.append(f".{name} = {number(said[name])}")
        return ["{" + ", ".join(found) + "}"] if found else []

    def _step(self, step: Step) -> Iterator[str]:
        for name in step.made:
            yield from self._place(name)
        for op in step.ops:
            for result in op.results:
                if isinstance(result.type, StateType):
                    self.names[result.name] = "state"
        rows = [self.names[name] for name in (*step.given, *step.made)]
        layer = "layer" if self.graph.layers else "-1"
        about = ", ".join(dict.fromkeys(op.mnemonic for op in step.ops))
        yield f"// reference.py: {about}"
        row = "{" + ", ".join(rows) + "}"
        yield from broken("call.step(", [str(step.number), layer, row], ");")


def make(kind: Any) -> str:
    """Return the call that makes values of a type."""
    heads = [str(dim) for dim in kind.dims[2:-1]]
    return f"call.make({', '.join([str(width(kind)), *heads[:1]])})"


def broken(opening: str, arguments: list[str], closing: str) -> Iterator[str]:
    """Yield a call, on several lines where it is long."""
    line = opening + ", ".join(arguments) + closing
    if len(line) + 4 <= LONGEST:
        yield line
        return
    yield opening
    current = ""
    for i, argument in enumerate(arguments):
        end = "," if i + 1 < len(arguments) else closing
        if current and len(current) + len(argument) + 10 > LONGEST:
            yield "    " + current.rstrip()
            current = ""
        current += argument + end + " "
    yield "    " + current.rstrip()


def view(plan: Plan, layout: Layout) -> Mapping[str, Any]:
    """Return the variables of model.cpp.j2."""
    program = plan.program
    return {
        "name": program.name,
        "headers": view_headers(plan),
        "model": [member(one) for one in layout.model],
        "blocks": [_block(plan, layout, block) for block in program.blocks],
        "layers": program.layers,
        "places": list(layout.places()),
        "carried": [_carried(plan, name) for name in program.carried],
        "stem": _stem(plan, layout),
        "head": _head(plan, layout),
        "shared": [cpp(name) for name in _shared(plan)],
    }


def headers(plan: Plan) -> list[str]:
    """Name the headers that a program needs: those of its kernels, and what these
    include."""
    folder = files("glmc.codegen_templates") / "cpu"
    found: dict[str, None] = {}
    waiting = ["library.h", *(f"{name}.h" for name in view_headers(plan))]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += _INCLUDED.findall((folder / name).read_text("utf-8"))
    return sorted(found)


def view_headers(plan: Plan) -> list[str]:
    """Name the headers of a program's kernels, without their endings."""
    ops = [op for graph in plan.graphs for op in plan.native(graph)]
    copied = {"elementwise"}  # what a layer hands on may have to be copied
    return sorted(
        copied | {KERNELS[op.mnemonic].header for op in ops if op.mnemonic in KERNELS}
    )


def _shared(plan: Plan) -> list[str]:
    """Name what every layer reads of the stem and finds with the C++."""
    rows = plan.rows(plan.program.blocks[0])
    return [name for name in plan.program.shared if name in rows]


def _carried(plan: Plan, name: str) -> Mapping[str, Any]:
    kind = plan.program.blocks[0].types[name]
    assert isinstance(kind, TensorType)
    return {"name": cpp(name), "make": make(kind)}


def _block(plan: Plan, layout: Layout, block: Graph) -> Mapping[str, Any]:
    body = Body(plan, layout, block)
    for shared in block.inputs:
        if shared.name in plan.constants:
            body.names[shared.name] = f"model.{cpp(shared.name)}"
    returned = [f"next_{cpp(name)}" for name in plan.program.carried]
    late = _returns(body, block, returned)
    return {
        "name": class_name(block),
        "function": cpp(block.name),
        "layers": _layers(block.layers),
        "weights": [member(one) for one in layout.block(block)],
        "states": [_state(state.name, state.type) for state in layout.states(block)],
        "inputs": [
            f"Rows {cpp(name)}" for name in (*plan.program.carried, *_shared(plan))
        ],
        "results": [f"Rows {name}" for name in returned],
        "lines": [*body.lines(), *late(body)],
    }


def _returns(body: Body, graph: Graph, places: list[str]) -> Any:
    """Let what a graph returns be computed in its place; return what copies the
    rest."""
    direct: dict[str, str] = {}
    for name, place in zip(graph.returns, places, strict=True):
        op = graph.producers.get(name)
        if op is not None and op.mnemonic not in VIEWS and name not in direct:
            direct[name] = place
    body.results.update(direct)

    def late(after: Body) -> list[str]:
        return [
            f"ops::copy(call, {place}, {after.names[name]});"
            for name, place in zip(graph.returns, places, strict=True)
            if direct.get(name) != place
        ]

    return late


def _state(name: str, kind: StateType) -> str:
    sizes = ", ".join(map(str, kind.dims))
    if isinstance(kind, KvType):
        return f"Kept<{sizes}> {cpp(name)};"
    if isinstance(kind, TokenType):
        return f"PerToken<{sizes}> {cpp(name)};"
    own = "float" if kind.dtype else "Element"
    return f"PerRow<{own}, {sizes}> {cpp(name)};"


def _stem(plan: Plan, layout: Layout) -> list[str]:
    stem = plan.program.stem
    body = Body(plan, layout, stem)
    carried = [cpp(name) for name in plan.program.carried]
    wanted = list(stem.returns[: len(carried)])
    at = _returns(body, stem.replace(returns=tuple(wanted)), carried)
    lines = [*body.lines(), *at(body)]
    names = {cpp(name): body.names[name] for name in _shared(plan)}
    lines += [f"Rows {name} = {of};" for name, of in names.items() if name != of]
    return lines


def _head(plan: Plan, layout: Layout) -> Mapping[str, Any]:
    head = plan.program.head
    body = Body(plan, layout, head)
    late = _returns(body, head, [LOGITS])
    read = [value.name for value in head.inputs if is_rows(value.type)]
    return {
        "inputs": [cpp(name) for name in read],
        "lines": [*body.lines(), *late(body)],
        "width": width(_tensor(head)),
    }


def _tensor(head: Graph) -> TensorType:
    kind = head.types[head.returns[0]]
    assert isinstance(kind, TensorType)
    return kind


def _layers(layers: tuple[int, ...]) -> str:
    if len(layers) == 1:
        return f"Layer {layers[0]}."
    run = tuple(range(layers[0], layers[-1] + 1)) == layers
    return (
        f"Layers {layers[0]} to {layers[-1]}."
        if run
        else (f"Layers {', '.join(map(str, layers))}.")
    )
