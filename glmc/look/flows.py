"""``glmc inspect --upstream`` and ``--downstream``: trace values to their sources and
uses.

Both stay within a graph: what a block hands on is what the next layer's is given.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal

import networkx as nx

from glmc.ir.errors import NotInBuildError
from glmc.ir.graph import Graph, Program
from glmc.look.builds import Build
from glmc.look.views import statement, title

Direction = Literal["upstream", "downstream"]


def flow_facts(build: Build, value: str, direction: Direction) -> dict[str, Any]:
    """List the nodes of the last stage that a value depends on, or that depend on it.

    Args:
        build: a build.
        value: ``%ctx``, ``@qkv``, or the name alone; every graph that has it is told.
        direction: towards what it is made of, or towards what is made of it.

    Raises:
        GlmcError: when no graph of the last stage has the value; tells near names.
    """
    program = build.program
    found = [
        {"graph": graph.name, "title": title(graph), "value": name, **told}
        for graph in program.graphs
        for name, told in _flows(program, graph, value, direction)
    ]
    if not found:
        raise NotInBuildError(_unknown(program, value))
    return {"value": value, "direction": direction, "graphs": found}


def _flows(
    program: Program, graph: Graph, value: str, direction: Direction
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, flow) for the value, and for the parameter, of that name."""
    network = graph.to_networkx(program)
    for name in _names(graph):
        if value in (name, name[1:]):
            nodes = _reached(network, graph, name, direction)
            yield name, _told(network, [node for node in network if node in nodes])


def _names(graph: Graph) -> list[str]:
    """List the values and the parameters of a graph, with their sigil."""
    params = dict.fromkeys(name for op in graph.ops for name in op.params)
    return [*(f"%{name}" for name in graph.types), *(f"@{name}" for name in params)]


def _reached(
    network: "nx.MultiDiGraph[str]", graph: Graph, value: str, direction: Direction
) -> set[str]:
    if direction == "upstream":
        maker = _maker(graph, value)
        return {maker, *nx.ancestors(network, maker)}
    edges: Iterable[tuple[str, str, str]] = network.edges(data="value")
    readers = {to for _, to, read in edges if read == value}
    return readers.union(*(nx.descendants(network, node) for node in readers))


def _maker(graph: Graph, value: str) -> str:
    """Return the node that a value or parameter comes from."""
    name = value[1:]
    if value.startswith("@"):
        return f"param {name}"
    made = (f"op {at}" for at, op in enumerate(graph.ops) if name in op.outs)
    return next(made, f"in {name}")


def _told(network: "nx.MultiDiGraph[str]", nodes: Iterable[str]) -> dict[str, Any]:
    """Return nodes as plain data, in the order of the graph."""
    told: dict[str, Any] = {"inputs": {}, "params": {}, "ops": [], "returns": {}}
    for node in nodes:
        facts = network.nodes[node]
        if facts["kind"] == "op":
            told["ops"].append(statement(facts["op"]))
        else:
            told[f"{facts['kind']}s"][facts["name"]] = str(facts["type"])
    return told


def _unknown(program: Program, value: str) -> str:
    names = [name for graph in program.graphs for name in _names(graph)]
    plain = dict.fromkeys(name[1:] for name in names)
    near = get_close_matches(value.lstrip("%@"), plain, n=3)
    wanted = [name for name in dict.fromkeys(names) if name[1:] in near]
    hint = f"; did you mean {' or '.join(wanted)}?" if near else "."
    return (
        f"the last stage has no value or parameter {value!r}{hint}"
        " `glmc inspect BUILD` prints all of them."
    )


def flow_text(facts: Mapping[str, Any]) -> str:
    """Format :func:`flow_facts` for a person."""
    lines = []
    for found in facts["graphs"]:
        up = facts["direction"] == "upstream"
        what = "is made of" if up else "goes to"
        lines.append(f"{found['title']}: what {found['value']} {what}")
        given = {"%": found["inputs"], "@": found["params"]}
        lines += [
            f"  {sigil}{name}: {type_of}"
            for sigil, values in given.items()
            for name, type_of in values.items()
        ]
        lines += [f"  {line}" for line in found["ops"]]
        lines += [f"  return %{name}: {of}" for name, of in found["returns"].items()]
        if len(lines) == 1 or lines[-1].endswith(what):
            lines.append("  nothing")
    return "\n".join(lines)
