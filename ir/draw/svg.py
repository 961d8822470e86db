"""One graph as SVG: ops as boxes, values as edges with their shapes."""

from collections.abc import Hashable, Iterator
from html import escape
from typing import NamedTuple

from glmc.ir.draw.layered import Edge, Placed, Point, Size, place
from glmc.ir.graph import Graph, Input
from glmc.ir.network import reads
from glmc.ir.op import Op
from glmc.ir.state import State
from glmc.ir.text.printer import print_layers, print_value
from glmc.ir.types import Type

#: Pixels: advance of the monospaced font in a box and in a label, heights of both, the
#: distance of a label from its line, between nodes and between layers, and the margin.
_ADVANCE, _HEIGHT, _SMALL, _LOW, _BESIDE = 7.25, 38, 6.7, 13, 6
_GAP, _SPACE, _MARGIN = 20, 20, 14
_LONGEST = 34

#: For a file of its own; the report's page has these names in its own style sheet.
STYLE = """\
svg.graph{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.graph rect{fill:#fff;stroke:#8a94a6;rx:6}.graph .op .sub{fill:#5b6577}
.graph .port rect{fill:#eef1f6;stroke:#c4cbd7;rx:20}
.graph .edge{fill:none;stroke:#8a94a6;stroke-width:1.4}
.graph .shape{fill:#5b6577;font-size:11px}
"""


class Box(NamedTuple):
    """A node as it is drawn: CSS class, identifier, and one or two lines of text."""

    kind: str
    key: str
    title: str
    sub: str

    @property
    def size(self) -> Size:
        """Pixels that the longer line needs, and the heights of two."""
        half = round(max(len(self.title), len(self.sub)) * _ADVANCE + 28) / 2
        return Size(half, half, _HEIGHT)


class Wire(NamedTuple):
    """A value that one box hands to others: a line that forks below its label.

    The label is a node, and empty where a box at an end of the line says the dims.
    """

    value: str
    source: str
    targets: tuple[str, ...]
    label: str
    dims: str

    @property
    def size(self) -> Size:
        """Pixels of the label, to the right of the line."""
        return Size(0, _BESIDE + len(self.dims) * _SMALL, _LOW)

    @property
    def edges(self) -> list[Edge]:
        """The pieces of the line, through the label where there is one."""
        if not self.label:
            return [(self.source, target) for target in self.targets]
        return [(self.source, self.label), *((self.label, t) for t in self.targets)]


def svg(graph: Graph, *, style: bool = True) -> str:
    """Draw a graph top to bottom; with ``style`` the SVG stands alone.

    Boxes have ``data-op`` (index of the op) or ``data-value``, edges ``data-value``.
    """
    boxes = _boxes(graph)
    wires = _wires(graph)
    labels: dict[Hashable, Hashable] = {
        wire.label: wire.source for wire in wires if wire.label
    }
    sizes: dict[Hashable, Size] = {name: box.size for name, box in boxes.items()}
    sizes |= {wire.label: wire.size for wire in wires if wire.label}
    edges = [edge for wire in wires for edge in wire.edges]
    placed = place(sizes, edges, labels, gap=_GAP, space=_SPACE)
    width = placed.width + 2 * _MARGIN
    height = placed.height + 2 * _MARGIN
    body = [
        *_lines(placed, wires),
        *_labels(placed, wires),
        *_shapes(boxes, placed),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(graph.name)}">'
    )
    return "".join([head, f"<style>{STYLE}</style>" if style else "", *body, "</svg>"])


def _boxes(graph: Graph) -> dict[str, Box]:
    """Make a box for each op, each input that is read and each value that is
    returned."""
    read = {name for op in graph.ops for name in op.values} | set(graph.returns)
    boxes = {
        f"in {value.name}": Box("port", value.name, f"%{value.name}", _sizes(value))
        for value in graph.given
        if value.name in read
    }
    boxes |= {
        f"op {at}": Box("op", str(at), op.mnemonic, subtitle(op))
        for at, op in enumerate(graph.ops)
    }
    return boxes | {
        f"out {name}": Box("port", name, f"return %{name}", _dims(graph.types[name]))
        for name in graph.returns
    }


def _sizes(value: Input | State) -> str:
    """Return a tensor's dims, or a state's whole declaration."""
    if isinstance(value, Input):
        return _dims(value.type)
    source = f" from {print_layers(value.owners)}" if value.owners else ""
    return f"{value.type}{source}"


def _dims(of: Type) -> str:
    return ",".join(map(str, of.dims))


def subtitle(op: Op) -> str:
    """Return the op's parameters, or else its attributes, cut to fit the box."""
    text = " ".join(f"@{name}" for name in op.params) or ", ".join(
        f"{name}={print_value(value, isinstance(value, str))}"
        for name, value in op.attributes().items()
    )
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _wires(graph: Graph) -> list[Wire]:
    """List the values that boxes hand to others, in the order of their first reader."""
    found = graph.to_networkx()
    readers: dict[tuple[str, str], list[str]] = {}
    for target in found:
        for source, value in reads(found, target):
            readers.setdefault((source, value), []).append(target)
    told = {value.name for value in graph.given} | set(graph.returns)
    return [
        Wire(
            value,
            source,
            tuple(targets),
            "" if value in told else f"label {value}",
            _dims(graph.types[value]),
        )
        for (source, value), targets in readers.items()
    ]


def _lines(placed: Placed, wires: list[Wire]) -> Iterator[str]:
    for wire in wires:
        for edge in wire.edges:
            line = _path(placed, placed.routes[edge], through=edge[1] == wire.label)
            yield f'<path class="edge" data-value="{escape(wire.value)}" d="{line}"/>'


def _labels(placed: Placed, wires: list[Wire]) -> Iterator[str]:
    """Yield the shape of each value that has a label, beside its line."""
    for wire in wires:
        if wire.label:
            x, y = _at(*placed.centres[wire.label])
            yield (
                f'<text class="shape" data-value="{escape(wire.value)}" '
                f'x="{x + _BESIDE}" y="{y + 4}">{escape(wire.dims)}</text>'
            )


def _path(placed: Placed, route: tuple[Point, ...], *, through: bool) -> str:
    """Draw a smooth line out of the foot of one node to the next.

    It curves between layers and runs straight down within one; ``through`` the last
    one too.
    """
    x, y = _at(route[0][0], placed.bands[route[0][1]][1])
    steps = [f"M{x} {y}"]
    for n, (to, layer) in enumerate(route[1:], 1):
        top, foot = placed.bands[layer]
        (tx, ty), bend = _at(to, top), (_at(to, top)[1] - y) / 2
        straight = f"V{ty}"
        curve = f"C{x} {y + bend:g} {tx} {ty - bend:g} {tx} {ty}"
        steps.append(straight if tx == x else curve)
        if through or n < len(route) - 1:
            ty = _at(to, foot)[1]
            steps.append(f"V{ty}")
        x, y = tx, ty
    return "".join(steps)


def _shapes(boxes: dict[str, Box], placed: Placed) -> Iterator[str]:
    for name, box in boxes.items():
        x, y = _at(*placed.centres[name])
        w = 2 * box.size.left
        mark = "data-op" if box.kind == "op" else "data-value"
        lift = 4 if not box.sub else -3
        text = f'<text text-anchor="middle" y="{lift}">{escape(box.title)}</text>'
        if box.sub:
            sub = escape(box.sub)
            text += f'<text class="sub" text-anchor="middle" y="13">{sub}</text>'
        yield (
            f'<g class="{box.kind}" {mark}="{escape(box.key)}" '
            f'transform="translate({x} {y})"><rect x="{-w / 2:g}" y="{-_HEIGHT // 2}" '
            f'width="{w:g}" height="{_HEIGHT}"/>{text}</g>'
        )


def _at(x: float, y: float) -> tuple[int, int]:
    return round(x + _MARGIN), round(y + _MARGIN)
