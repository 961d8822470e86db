"""A graph as a networkx graph, for analyses that the IR has no method for."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import networkx as nx

from glmc.ir.types import Type

if TYPE_CHECKING:
    from glmc.ir.graph import Graph, Program


def network(graph: "Graph", program: "Program | None" = None) -> "nx.MultiDiGraph[str]":
    """Make a network of a graph; see :meth:`glmc.ir.graph.Graph.to_networkx`."""
    found: nx.MultiDiGraph[str] = nx.MultiDiGraph(name=graph.name)
    makers: dict[str, str] = {}
    types: dict[str, Type | None] = {f"%{n}": of for n, of in graph.types.items()}
    for name in graph.types:
        if name not in graph.producers:
            makers[f"%{name}"] = f"in {name}"
            type_of = types[f"%{name}"]
            found.add_node(f"in {name}", kind="input", name=name, type=type_of)
    for name in dict.fromkeys(name for op in graph.ops for name in op.params):
        param = program.param(graph, name) if program else graph.param(name)
        makers[f"@{name}"] = f"param {name}"
        types[f"@{name}"] = of = param.type if param else None
        found.add_node(f"param {name}", kind="param", name=name, type=of, param=param)
    for at, op in enumerate(graph.ops):
        found.add_node(f"op {at}", kind="op", name=op.mnemonic, op=op)
        for field, sigil, name in op.operands():
            value = sigil + name
            facts = {"value": value, "type": types[value]}
            found.add_edge(makers[value], f"op {at}", key=field, **facts)
        makers |= dict.fromkeys((f"%{name}" for name in op.outs), f"op {at}")
    for name in graph.returns:
        value = f"%{name}"
        facts = {"value": value, "type": types[value]}
        found.add_node(f"out {name}", kind="return", name=name, type=types[value])
        found.add_edge(makers[value], f"out {name}", key="return", **facts)
    return found


def reads(found: "nx.MultiDiGraph[str]", target: str) -> Iterator[tuple[str, str]]:
    """Give (source, value) of each value that a node reads, once; no parameters."""
    edges: Iterable[tuple[str, str, str]] = found.in_edges(target, data="value")
    unique = dict.fromkeys((source, value) for source, _, value in edges)
    for source, value in unique:
        if value.startswith("%"):
            yield source, value.removeprefix("%")
