"""One graph as a Mermaid flowchart, for documents that draw them."""

from glmc.ir.draw.svg import subtitle
from glmc.ir.graph import Graph


def mermaid(graph: Graph) -> str:
    """``flowchart TD`` with an edge, labelled with its dims, for every value read."""
    lines = ["flowchart TD"]
    maker: dict[str, str] = {}
    read = {name for op in graph.ops for name in op.values}
    for value in graph.inputs:
        if value.name in read:
            maker[value.name] = f"in_{value.name}"
            lines.append(f'  in_{value.name}(["%{value.name}"])')
    for at, op in enumerate(graph.ops):
        under = f"<br/>{_plain(subtitle(op))}" if subtitle(op) else ""
        lines.append(f'  op{at}["{op.mnemonic}{under}"]')
        for name in dict.fromkeys(op.values):
            lines.append(f"  {maker[name]} -->|{_dims(graph, name)}| op{at}")
        maker |= dict.fromkeys(op.outs, f"op{at}")
    for name in graph.returns:
        lines.append(f'  out_{name}(["return %{name}"])')
        lines.append(f"  {maker[name]} -->|{_dims(graph, name)}| out_{name}")
    return "\n".join(lines) + "\n"


def _dims(graph: Graph, name: str) -> str:
    return " ".join(map(str, graph.types[name].dims))


def _plain(text: str) -> str:
    """Text without the characters that Mermaid reads as its own."""
    return "".join(f"#{ord(c)};" if c in '"<>[]{}|#;' else c for c in text)
