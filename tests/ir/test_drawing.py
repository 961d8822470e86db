"""Drawings of graphs: boxes do not overlap, lines run down, labels stand clear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmc.compile.driver import Options, compile_files
from glmc.ir.draw import svg
from glmc.ir.draw.layered import Placed, Size, place
from glmc.ir.graph import Graph
from glmc.look.builds import Build
from support.ranges import examples

#: Boxes by width, pairs of boxes, and the boxes that have a label by its width.
DAGS = st.integers(2, 14).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(20, 200), min_size=n, max_size=n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=30),
        st.dictionaries(st.integers(0, n - 1), st.integers(10, 90), max_size=n),
    )
)
Dag = tuple[list[int], list[tuple[int, int]], dict[int, int]]


class Rect(NamedTuple):
    """A rectangle of a drawing."""

    left: float
    top: float
    right: float
    foot: float

    def holds(self, x: float, y: float) -> bool:
        """Tell whether a point lies inside, a hair's breadth apart from its border."""
        return self.left + 1 < x < self.right - 1 and self.top + 1 < y < self.foot - 1


def placed_of(dag: Dag) -> tuple[dict[Any, Size], dict[Any, Any], Placed]:
    """Place a graph where a box's first line has its label, if it has one."""
    widths, pairs, told = dag
    sizes: dict[Any, Size] = {i: Size(w / 2, w / 2, 40) for i, w in enumerate(widths)}
    edges: list[tuple[Any, Any]] = [(a, b) for a, b in pairs if a < b]
    sources = {a for a, _ in edges}
    labels: dict[Any, Any] = {f"l{a}": a for a in told if a in sources}
    sizes |= {label: Size(0, told[a], 12) for label, a in labels.items()}
    through = [(f"l{a}" if f"l{a}" in labels else a, b) for a, b in edges]
    whole = [*through, *((a, label) for label, a in labels.items())]
    return sizes, labels, place(sizes, whole, labels, gap=20, space=20)


@examples(60)
@given(DAGS)
def test_boxes_do_not_overlap_and_lines_run_down(dag: Dag) -> None:
    sizes, labels, placed = placed_of(dag)
    rows: dict[float, list[tuple[float, float]]] = {}
    for node, (x, y) in placed.centres.items():
        size = sizes[node]
        rows.setdefault(y, []).append((x - size.left, x + size.right))
        top, foot = placed.bands[y]
        assert size.height <= foot - top
        assert -1e-6 <= x - size.left <= x + size.right <= placed.width + 1e-6
        assert 0 <= top <= foot <= placed.height + 1e-6
    for route in placed.routes.values():
        for above, below in pairwise(route):
            gap = placed.bands[below[1]][0] - placed.bands[above[1]][1]
            assert gap == pytest.approx(20)
        for x, y in route[1:-1]:  # a line has its own place in each layer
            rows[y].append((x, x))
    for spans in rows.values():
        for left, right in pairwise(sorted(spans)):
            assert left[1] + 20 <= right[0] + 1e-6
    for label, box in labels.items():
        assert placed.centres[box][1] < placed.centres[label][1]


def test_a_cycle_is_no_drawing() -> None:
    size = Size(1, 1, 1)
    with pytest.raises(nx.NetworkXUnfeasible):
        place({"a": size, "b": size}, [("a", "b"), ("b", "a")], gap=1, space=1)


def curve(path: str) -> Iterator[tuple[float, float]]:
    """Yield points of a path, at most 4 pixels apart in the curves of a drawing."""
    steps = re.findall(r"([MCV])([-\d. ]+)", path)
    assert "".join(f"{a}{b}" for a, b in steps) == path
    x = y = 0.0
    for kind, numbers in steps:
        at = [float(n) for n in numbers.split()]
        if kind == "M":
            x, y = at
        elif kind == "V":
            count = int(abs(at[0] - y)) + 1
            yield from ((x, y + (at[0] - y) * n / count) for n in range(count + 1))
            y = at[0]
        else:
            xs, ys = (x, *at[::2]), (y, *at[1::2])
            for n in range(201):
                t = n / 200
                w = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
                yield tuple(sum(map(float.__mul__, w, p)) for p in (xs, ys))  # type: ignore[misc]
            x, y = xs[-1], ys[-1]


def rects(drawing: str) -> tuple[list[Rect], list[Rect]]:
    """The labels of a drawing, as wide as their characters, and its boxes."""
    found = re.findall(r'class="shape"[^>]* x="(\d+)" y="(\d+)">([^<]+)<', drawing)
    labels = [
        Rect(int(x), int(y) - 10, int(x) + 6.6 * len(text), int(y) + 2)
        for x, y, text in found
    ]
    groups = re.findall(
        r'translate\((\d+) (\d+)\)"><rect x="([-\d.]+)" y="(-\d+)"', drawing
    )
    boxes = [
        Rect(int(x) + float(dx), int(y) + int(dy), int(x) - float(dx), int(y) - int(dy))
        for x, y, dx, dy in groups
    ]
    return labels, boxes


def crossed(drawing: str) -> list[Rect]:
    """The labels and boxes that a line runs through, and labels on other things."""
    labels, boxes = rects(drawing)
    every = [*labels, *boxes]
    found = []
    for path in re.findall(r' d="([^"]+)"', drawing):
        points = list(curve(path))
        found += [rect for rect in every if any(rect.holds(*p) for p in points)]
    for label in labels:
        found += [
            other
            for other in every
            if other is not label
            and label.left < other.right
            and other.left < label.right
            and label.top < other.foot
            and other.top < label.foot
        ]
    return found


def graphs(config: str) -> Iterator[Graph]:
    files = compile_files(config, Options()).files
    build = Build(Path(config), {n: t for n, t in files.items() if isinstance(t, str)})
    for stage in ("lowered", list(build.stages)[-1]):
        yield from build.program_at(stage).graphs


@pytest.mark.parametrize(
    "config", ["llama-3.1-8b", "glm-4.5-air", "glm-5", "chatglm-6b", "bert"]
)
def test_no_line_crosses_a_label(config: str) -> None:
    count = 0
    for graph in graphs(config):
        drawing = svg(graph)
        assert crossed(drawing) == []
        count += len(rects(drawing)[0])
    assert count > 20


def test_control_a_label_on_a_line_is_seen() -> None:
    graph = max(graphs("llama-3.1-8b"), key=lambda graph: len(graph.ops))
    drawing = svg(graph)
    x, y = re.findall(r'class="shape"[^>]* x="(\d+)" y="(\d+)"', drawing)[0]
    old = f'x="{x}" y="{y}"'
    assert crossed(drawing.replace(old, f'x="{int(x) - 20}" y="{y}"'))
    assert crossed(drawing.replace(old, f'x="{x}" y="{int(y) + 24}"'))
