"""Graphs as networkx graphs: every read is an edge, and nothing else is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import networkx as nx
import pytest

from glmc.compile.driver import Options, compile_files
from glmc.ir.graph import Graph, Program
from glmc.ir.network import reads
from support import GOLDEN


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_files(GOLDEN / "chatglm3", Options()).stages[-1].program


def test_every_operand_is_an_edge_and_nothing_else(program: Program) -> None:
    for graph in program.graphs:
        network = graph.to_networkx(program)
        edges: Any = network.edges(keys=True, data="value")
        got = Counter((to, key, value) for _, to, key, value in edges)
        want = Counter(
            (f"op {at}", field, sigil + name)
            for at, op in enumerate(graph.ops)
            for field, sigil, name in op.operands()
        )
        want.update((f"out {name}", "return", f"%{name}") for name in graph.returns)
        assert got == want
        assert nx.is_directed_acyclic_graph(network)


def test_attributes_are_the_objects_of_the_ir(program: Program) -> None:
    graph = program.blocks[0]
    network = graph.to_networkx(program)
    for node, facts in network.nodes(data=True):
        kind, _, name = node.partition(" ")
        match facts["kind"]:
            case "op":
                assert kind == "op"
                assert facts["op"] is graph.ops[int(name)]
                assert facts["name"] == facts["op"].mnemonic
            case "param":
                param = program.param(graph, name)
                assert param is not None
                assert facts["param"] is param
                assert facts["type"] == param.type
            case "input" | "return":
                assert facts["type"] == graph.types[name]
    for source, _, facts in network.edges(data=True):
        if facts["value"].startswith("%"):
            assert facts["type"] == graph.types[facts["value"][1:]]
        else:
            assert facts["type"] == network.nodes[source]["type"]


def test_what_the_program_holds_needs_the_program(program: Program) -> None:
    alone, whole = (program.head.to_networkx(of) for of in (None, program))
    for network, known in ((alone, False), (whole, True)):
        nodes = [facts for _, facts in network.nodes(data=True)]
        (*_, param) = (facts for facts in nodes if facts["kind"] == "param")
        assert (param["type"] is not None) == known


def test_an_op_that_reads_a_value_twice_has_two_edges() -> None:
    program = compile_files("qwen3-0.6b", Options(disable=("merge-gate-up",))).stages[0]
    graph = twice(program.program.blocks[0])
    network = graph.to_networkx()
    at = next(i for i, op in enumerate(graph.ops) if op.mnemonic == "add")
    edges: Any = network.in_edges(f"op {at}", keys=True, data="value")
    assert sorted((key, value) for _, _, key, value in edges) == [
        ("x", "%x"),
        ("y", "%x"),
    ]
    assert len(list(reads(network, f"op {at}"))) == 1


def twice(graph: Graph) -> Graph:
    """The graph with its first add reading one value twice."""
    add = next(op for op in graph.ops if op.mnemonic == "add")
    changed = add.model_copy(update={"x": "x", "y": "x"})
    return graph.replace(ops=tuple(changed if op is add else op for op in graph.ops))
