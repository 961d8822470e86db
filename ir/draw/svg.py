"""One graph as SVG: ops as boxes, values as edges with their shapes."""

from collections.abc import Hashable, Iterator
from html import escape
from typing import NamedTuple

from glmc.ir.draw.layered import Placed, Point, place
from glmc.ir.graph import Graph, Input
from glmc.ir.network import reads
from glmc.ir.op import Op
from glmc.ir.state import State
from glmc.ir.text.printer import print_layers, print_value
from glmc.ir.types import Type

#: Pixels: advance of the 12 px monospaced font, box height, row distance, margins.
_ADVANCE, _HEIGHT, _ROW, _GAP, _MARGIN = 7.25, 40, 84, 26, 14
_LONGEST = 34

#: For a file of its own; the report's page has these names in its own style sheet.
STYLE = """\
svg.graph{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.graph rect{fill:#fff;stroke:#8a94a6;rx:6}.graph .op .sub{fill:#5b6577}
.graph .port rect{fill:#eef1f6;stroke:#c4cbd7;rx:20}
.graph .edge{fill:none;stroke:#8a94a6;stroke-width:1.4}
.graph .shape{fill:#5b6577;font-size:11px;paint-order:stroke;stroke:#fff;stroke-width:4}
"""


class Box(NamedTuple):
    """A node as it is drawn: CSS class, identifier, and one or two lines of text."""

    kind: str
    key: str
    title: str
    sub: str

    @property
    def width(self) -> float:
        """Pixels that the longer line needs."""
        return max(len(self.title), len(self.sub)) * _ADVANCE + 28


def svg(graph: Graph, *, style: bool = True) -> str:
    """Draw a graph top to bottom; with ``style`` the SVG stands alone.

    Boxes have ``data-op`` (index of the op) or ``data-value``, edges ``data-value``.
    """
    boxes = _boxes(graph)
    edges = list(_edges(graph))
    widths: dict[Hashable, float] = {n: box.width for n, box in boxes.items()}
    placed = place(widths, [(a, b) for a, b, _ in edges], row=_ROW, gap=_GAP)
    width = placed.width + 2 * _MARGIN
    height = placed.height + _HEIGHT + 2 * _MARGIN
    body = [
        *_curves(placed, edges),
        *_labels(graph, placed, edges),
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


def _edges(graph: Graph) -> Iterator[tuple[str, str, str]]:
    """Yield (source, target, value) of each value that one box hands to another."""
    found = graph.to_networkx()
    for target in found:
        for source, value in reads(found, target):
            yield source, target, value


def _curves(placed: Placed, edges: list[tuple[str, str, str]]) -> Iterator[str]:
    for source, target, value in edges:
        line = _path(placed.routes[source, target])
        yield f'<path class="edge" data-value="{escape(value)}" d="{line}"/>'


def _labels(
    graph: Graph, placed: Placed, edges: list[tuple[str, str, str]]
) -> Iterator[str]:
    """Yield the shape of each value that an op hands to another, at its first edge."""
    labelled = {value.name for value in graph.given} | set(graph.returns)
    for source, target, value in edges:
        if value in labelled:
            continue
        labelled.add(value)
        (x0, y0), (x1, _) = placed.routes[source, target][:2]
        x, y = _at(0.35 * x0 + 0.65 * x1, y0 + _ROW / 2 + 8)
        dims = _dims(graph.types[value])
        yield (
            f'<text class="shape" text-anchor="middle" data-value="{escape(value)}" '
            f'x="{x}" y="{y}">{dims}</text>'
        )


def _path(route: tuple[Point, ...]) -> str:
    """Draw a smooth line through the points, out of the foot of one box into the
    next."""
    half = _HEIGHT / 2
    x, y = _at(route[0][0], route[0][1] + half)
    steps = [f"M{x} {y}"]
    for n, (x1, y1) in enumerate(route[1:], 1):
        px, py = _at(route[n - 1][0], route[n - 1][1] + half)
        tx, ty = _at(x1, y1 - half)
        bend = (ty - py) / 2
        steps.append(f"C{px} {py + bend:g} {tx} {ty - bend:g} {tx} {ty}")
        if n < len(route) - 1:
            steps.append(f"V{ty + _HEIGHT}")
    return "".join(steps)


def _shapes(boxes: dict[str, Box], placed: Placed) -> Iterator[str]:
    for name, box in boxes.items():
        x, y = _at(*placed.centres[name])
        w = round(box.width)
        mark = "data-op" if box.kind == "op" else "data-value"
        lift = 4 if not box.sub else -3
        text = f'<text text-anchor="middle" y="{lift}">{escape(box.title)}</text>'
        if box.sub:
            sub = escape(box.sub)
            text += f'<text class="sub" text-anchor="middle" y="13">{sub}</text>'
        yield (
            f'<g class="{box.kind}" {mark}="{escape(box.key)}" '
            f'transform="translate({x} {y})"><rect x="{-w / 2:g}" y="{-_HEIGHT // 2}" '
            f'width="{w}" height="{_HEIGHT}"/>{text}</g>'
        )


def _at(x: float, y: float) -> tuple[int, int]:
    return round(x + _MARGIN), round(y + _HEIGHT / 2 + _MARGIN)
