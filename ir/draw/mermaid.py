"""One graph as a Mermaid flowchart, for documents that draw them."""

from collections.abc import Mapping
from typing import Any

from glmc.ir.draw.svg import subtitle
from glmc.ir.graph import Graph
from glmc.ir.network import reads


def mermaid(graph: Graph) -> str:
    """Draw a ``flowchart TD`` with an edge, labelled with its dims, for every value
    read."""
    lines = ["flowchart TD"]
    found = graph.to_networkx()
    for node, facts in found.nodes(data=True):
        if facts["kind"] == "param" or not found.degree(node):
            continue
        lines.append(f"  {_key(node)}{_box(facts)}")
        lines += [
            f"  {_key(source)} -->|{_dims(graph, value)}| {_key(node)}"
            for source, value in reads(found, node)
        ]
    return "\n".join(lines) + "\n"


def _key(node: str) -> str:
    """Return the node's Mermaid identifier: ``in_x``, ``op3``, ``out_x``."""
    kind, _, name = node.partition(" ")
    return f"op{name}" if kind == "op" else f"{kind}_{name}"


def _box(facts: Mapping[str, Any]) -> str:
    if facts["kind"] != "op":
        returned = "return " if facts["kind"] == "return" else ""
        return f'(["{returned}%{facts["name"]}"])'
    under = subtitle(facts["op"])
    return f'["{facts["name"]}{under and f"<br/>{_plain(under)}"}"]'


def _dims(graph: Graph, name: str) -> str:
    return " ".join(map(str, graph.types[name].dims))


def _plain(text: str) -> str:
    """Escape the characters that Mermaid reads as its own."""
    return "".join(f"#{ord(c)};" if c in '"<>[]{}|#;' else c for c in text)
