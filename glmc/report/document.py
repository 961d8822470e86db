"""Everything a report shows, as plain data."""

import ast
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from glmc.backends.classes import layer_classes
from glmc.backends.target import Target
from glmc.ir.cost import Call
from glmc.ir.draw.svg import svg
from glmc.ir.graph import Graph, Parameter, Program
from glmc.ir.op import Op
from glmc.ir.text.printer import print_call, print_layers, print_recipe
from glmc.look import roofline
from glmc.look.builds import Build
from glmc.look.devices import DEVICES
from glmc.look.views import title
from glmc.report.parts import doc, facts, keys, params_read, weights

_CALLS = {
    "a token after 1,024": Call(1, 1, 1024),
    "a token after 16,384": Call(1, 1, 16384),
    "32 rows, a token each after 1,024": Call(32, 1, 1024),
    "a prompt of 2,048": Call(1, 2048, 0),
}
_TEXTS = {
    "a text of 128 tokens": Call(1, 128, 0),
    "64 texts of 128 tokens": Call(64, 128, 0),
}
_Key = tuple[Graph, tuple[Parameter, ...]]
_ANY = next(iter(DEVICES.values()))  # costs are the same on all


def document(build: Build) -> dict[str, Any]:
    """Return the report of a build, for ``page.js``.

    ``graphs`` holds each graph once: a stage has the place there of each of its own.
    """
    graphs: dict[_Key, dict[str, Any]] = {}
    places: dict[_Key, int] = {}
    stages = []
    for name in list(build.stages)[1:]:
        program = build.program_at(name)
        shown = []
        for graph in program.graphs:
            key = (graph, params_read(program, graph))
            if key not in graphs:
                places[key] = len(graphs)
                graphs[key] = _graph(build.target, program, graph)
            shown.append(places[key])
        stages.append({"name": name, "doc": build.stages[name]["doc"], "graphs": shown})
    made = [op for graph in graphs.values() for op in graph["ops"]]
    return {
        "facts": facts(build),
        "units": [build.target.unit, build.target.units],
        "stages": stages,
        "graphs": list(graphs.values()),
        "docs": {op["name"]: doc(op["name"]) for op in made},
        "dump": build.dump(list(build.stages)[-1]),
        "ledger": [*_ledger(build)],
        "weights": list(weights(build.program)),
        "keys": list(keys(build)),
        "code": build.source("model.py"),
        "links": _links(build.program, build.source("model.py")),
        "roofline": _roofline(build),
    }


def _ledger(build: Build) -> Iterator[dict[str, Any]]:
    """Yield the fusions, and below them the ops that run without a kernel, in the same
    columns."""
    yield from (row.written() for row in build.ledger)
    for row in build.placements:
        if row.reason:
            told = {"fusion": row.op, "status": row.where, "launches_saved": 0}
            yield row.model_dump() | told


def _graph(on: Target, program: Program, graph: Graph) -> dict[str, Any]:
    return {
        "name": graph.name,
        "title": title(graph),
        "layers": print_layers(graph.layers),
        "times": len(graph.layers),
        "drawing": svg(graph, style=False),
        "ops": [_op(on, program, graph, op) for op in graph.ops],
        "bytes": sum(param.type.nbytes() for param in params_read(program, graph)),
    }


def _op(on: Target, program: Program, graph: Graph, op: Op) -> dict[str, Any]:
    """Split a line of the dump into its parts."""
    return {
        "name": op.mnemonic,
        "call": print_call(op),
        "results": {result.name: str(result.type) for result in op.results},
        "reads": list(dict.fromkeys(op.values)),
        "params": {
            name: print_recipe(param.recipe, graph.prefix)
            for name in op.params
            if (param := program.param(graph, name))
        },
        "launches": on.launches([op.mnemonic]),
    }


def _roofline(build: Build) -> dict[str, Any]:
    """Return the bytes and operations of the last stage's ops in some calls; the page
    has the formula.

    A line is (graph, op, what it makes, times, bytes, operations, dtype).
    """
    return {
        "devices": {name: asdict(device) for name, device in DEVICES.items()},
        "calls": [
            {
                "label": label,
                **asdict(call),
                "lines": [
                    (
                        *(line.graph, line.op, line.makes, line.times),
                        *(line.cost.nbytes, line.cost.flops, line.cost.dtype),
                    )
                    for line in roofline.lines(build.program, call, _ANY, build.target)
                ],
            }
            for label, call in (_TEXTS if build.model.is_encoder else _CALLS).items()
        ],
    }


def _links(program: Program, code: str) -> list[tuple[int, int, int]]:
    """List (graph, op, line) for every op of the last stage, lines from 1.

    The emitted module has the statements of the layers, class by class, then those of
    the prefix encoder, the stem and the head, an ``ops.NAME(...)`` for each op, in
    order; where an edited module departs from that, the ops from there on have no line.
    """
    places = {graph.name: at for at, graph in enumerate(program.graphs)}
    around = [g for g in program.graphs if not g.layers]
    order = [one.blocks for one in layer_classes(program)] + [(g,) for g in around]
    statements = [
        (op.mnemonic, n, graphs)
        for graphs in order
        for n, op in enumerate(graphs[0].ops)
    ]
    found = []
    for (mnemonic, n, graphs), (name, line) in zip(
        statements, _calls(code), strict=False
    ):
        if name != mnemonic:
            break
        found += [(places[graph.name], n, line) for graph in graphs]
    return found


def _calls(code: str) -> Iterator[tuple[str, int]]:
    """Yield (NAME, line) of every ``ops.NAME(...)``, in the order of the lines."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return
    calls = [
        (node.func.attr, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "ops"
    ]
    yield from sorted(calls, key=lambda call: call[1])
