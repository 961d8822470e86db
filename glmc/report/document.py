"""Everything a report shows, as plain data."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from glmc.backends.classes import layer_classes
from glmc.backends.target import Target
from glmc.ir.cost import Call
from glmc.ir.draw.svg import svg
from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.text.printer import print_call, print_layers, print_recipe
from glmc.look import roofline
from glmc.look.builds import Build
from glmc.look.devices import DEVICES
from glmc.look.inspecting import kept, size, summary

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
_ANY = next(iter(DEVICES.values()))  # costs are the same on all


def document(build: Build) -> dict[str, Any]:
    """Return the report of a build, for ``page.js``.

    ``drawings`` holds each drawing once; a graph that a pass left alone names the one
    of the stage before.
    """
    programs = {name: build.program_at(name) for name in list(build.stages)[1:]}
    drawings: dict[str, int] = {}
    stages = [
        {
            "name": name,
            "doc": build.stages[name]["doc"],
            "text": build.dump(name),
            "graphs": [
                _graph(build.target, program, g, drawings) for g in program.graphs
            ],
        }
        for name, program in programs.items()
    ]
    return {
        "facts": _facts(build),
        "units": [build.target.unit, build.target.units],
        "stages": stages,
        "drawings": list(drawings),
        "ledger": [*_ledger(build)],
        "weights": list(_weights(build.program)),
        "keys": [
            {"key": key, **fate} for key, fate in build.manifest["config_keys"].items()
        ],
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


def _facts(build: Build) -> list[tuple[str, str]]:
    """List the facts at the head of the page, as (label, text)."""
    facts = summary(build)
    blocks = ", ".join(f"{count} x {name}" for name, count in facts["blocks"].items())
    launches = [stage["launches"] for stage in facts["stages"]]
    return [
        ("layers", blocks),
        ("width", f"{facts['hidden']:,}"),
        ("vocabulary", f"{facts['vocab']:,}"),
        ("parameters", f"{facts['parameters']:,}"),
        ("weights", size(facts["weight_bytes"])),
        *([("cache", held)] if (held := kept(facts)) else []),
        (f"{build.target.units} a call", f"{launches[0]:,} → {launches[-1]:,}"),
    ]


def _graph(
    on: Target, program: Program, graph: Graph, drawings: dict[str, int]
) -> dict[str, Any]:
    drawing = svg(graph, style=False)
    return {
        "name": graph.name,
        "layers": print_layers(graph.layers),
        "drawing": drawings.setdefault(drawing, len(drawings)),
        "ops": [_op(on, program, graph, op) for op in graph.ops],
        "inputs": {value.name: str(value.type) for value in graph.given},
    }


def _op(on: Target, program: Program, graph: Graph, op: Op) -> dict[str, Any]:
    """Split a line of the dump into its parts."""
    doc = (type(op).__doc__ or "").strip().partition("\n\n")[0]
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
        "doc": " ".join(doc.split()),
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


def _weights(program: Program) -> Iterator[Mapping[str, str]]:
    rows = [(param, "", "") for param in program.params]
    for block in program.blocks:
        layers = print_layers(block.layers)
        rows += [(param, layers, block.prefix) for param in block.params]
    for param, layers, prefix in rows:
        yield {
            "name": param.name,
            "type": str(param.type),
            "layers": layers,
            "prefix": prefix,
            "recipe": print_recipe(param.recipe, prefix),
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
