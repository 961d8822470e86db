"""Layered drawing of a directed acyclic graph (Sugiyama's method).

Layers by longest path, edges that span several layers broken at dummy nodes, orders by
barycentre sweeps, then stacks of nodes that one straight line runs through, and
coordinates that keep orders and distances.
K. Sugiyama, S. Tagawa, M. Toda: "Methods for Visual Understanding of Hierarchical
System Structures", IEEE Transactions on Systems, Man, and Cybernetics 11(2), 1981.

A label is a node of a layer of its own, as in E. Gansner et al.: "A Technique for
Drawing Directed Graphs", IEEE Transactions on Software Engineering 19(3), 1993: it
stands beside the line that it is of, and no other line comes nearer than to a box.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import networkx as nx

Node = Hashable
Point = tuple[float, float]
Edge = tuple[Node, Node]
_SWEEPS = 12


class Size(NamedTuple):
    """The reach of a node from its line to the left and to the right, and its
    height."""

    left: float
    right: float
    height: float


#: The dummy node at which a long edge passes through a layer.
_LANE = Size(6, 6, 0)


@dataclass(frozen=True)
class Placed:
    """Centres of the nodes, the points each edge runs through, and the whole size.

    Between two points of a route, the line keeps within ``bands``, the (top, bottom)
    of each layer, only by running straight down.
    """

    centres: Mapping[Node, Point]
    routes: Mapping[Edge, tuple[Point, ...]]
    bands: Mapping[float, Point]
    width: float
    height: float


def place(
    sizes: Mapping[Node, Size],
    edges: Sequence[Edge],
    labels: Mapping[Node, Node] | None = None,
    *,
    gap: float,
    space: float,
) -> Placed:
    """Place the nodes, at least `gap` apart within a layer, layers `space` apart.

    ``labels`` maps those of the nodes that are labels to the node whose line they
    stand at, from which an edge leads to them.

    Raises:
        networkx.NetworkXUnfeasible: when the edges form a cycle.
    """
    labels = labels or {}
    ranks = _ranks(list(sizes), edges, labels)
    chains = {edge: _chain(edge, ranks) for edge in dict.fromkeys(edges)}
    every = dict(sizes)
    for chain in chains.values():
        every |= dict.fromkeys(chain[1:-1], _LANE)
        ranks |= {dummy: ranks[chain[0]] + n for n, dummy in enumerate(chain[1:-1], 1)}
    links: nx.DiGraph[Node] = nx.DiGraph()
    links.add_nodes_from(every)
    links.add_edges_from(pair for chain in chains.values() for pair in pairwise(chain))
    layers = _ordered(links, ranks)
    x = _columns(links, layers, every.keys() - sizes.keys(), every, gap)
    heights = [max(every[node].height for node in layer) for layer in layers]
    tops = [*accumulate((height + space for height in heights), initial=0.0)]
    y = [top + height / 2 for top, height in zip(tops, heights, strict=False)]
    left = min(x[n] - every[n].left for n in every)
    right = max(x[n] + every[n].right for n in every)
    at = {n: (x[n] - left, y[ranks[n]]) for n in every}
    return Placed(
        centres={n: at[n] for n in sizes},
        routes={edge: tuple(at[n] for n in chain) for edge, chain in chains.items()},
        bands={y[n]: (tops[n], tops[n] + heights[n]) for n in range(len(layers))},
        width=right - left,
        height=tops[-1] - space,
    )


def _ranks(
    nodes: Sequence[Node], edges: Sequence[Edge], labels: Mapping[Node, Node]
) -> dict[Node, int]:
    """Assign layers by longest path; a source stands right above its first reader, and
    labels in layers of their own, where there are any."""
    graph: nx.DiGraph[Node] = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from(edges)
    order = list(nx.topological_sort(graph))
    ranks: dict[Node, int] = {}
    for node in order:  # boxes in even layers, labels in odd ones
        above = [ranks[source] + 1 for source in graph.predecessors(node)]
        rank = max(above, default=0)
        ranks[node] = rank if node in labels else rank + rank % 2
    for node in reversed(order):
        below = [ranks[target] for target in graph.successors(node)]
        if below and not graph.in_degree(node):
            ranks[node] = (min(below) - 1) // 2 * 2
    kept = {rank: n for n, rank in enumerate(sorted(set(ranks.values())))}
    return {node: kept[rank] for node, rank in ranks.items()}


def _chain(edge: Edge, ranks: Mapping[Node, int]) -> list[Node]:
    """List the nodes an edge runs through, with a dummy in each layer between."""
    source, target = edge
    between = range(ranks[source] + 1, ranks[target])
    return [source, *((source, target, rank) for rank in between), target]


def _ordered(links: "nx.DiGraph[Node]", ranks: Mapping[Node, int]) -> list[list[Node]]:
    """Order the nodes of each layer so that few edges cross."""
    layers: list[list[Node]] = [[] for _ in range(max(ranks.values()) + 1)]
    for node in nx.dfs_preorder_nodes(links.to_undirected()):
        layers[ranks[node]].append(node)
    for node in links:  # what the first search did not reach
        if node not in layers[ranks[node]]:
            layers[ranks[node]].append(node)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        near = links.predecessors if down else links.successors
        place = {node: i for layer in layers for i, node in enumerate(layer)}
        for layer in layers if down else layers[::-1]:
            keys = {
                node: _mean([place[n] for n in near(node)], place[node])
                for node in layer
            }
            layer.sort(key=lambda node: keys[node])
            place |= {node: i for i, node in enumerate(layer)}
    return layers


def _columns(
    links: "nx.DiGraph[Node]",
    layers: Sequence[Sequence[Node]],
    lanes: Collection[Node],
    sizes: Mapping[Node, Size],
    gap: float,
) -> dict[Node, float]:
    """Find a line for each node near those of its neighbours.

    ``lanes`` are the dummies, where a line passes through a layer.
    """
    x: dict[Node, float] = {}
    for layer in layers:
        x |= _spread(layer, dict.fromkeys(layer, 0.0), sizes, gap)
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            near = {n: [*links.predecessors(n), *links.successors(n)] for n in layer}
            wanted = {n: _mean([x[m] for m in near[n]], x[n]) for n in layer}
            x |= _spread(layer, wanted, sizes, gap)
    stacks = _stacks(links, layers, lanes)
    apart: dict[tuple[int, int], float] = {}
    for layer in layers:
        for a, b in pairwise(layer):
            pair, least = (stacks[a], stacks[b]), sizes[a].right + sizes[b].left + gap
            apart[pair] = max(apart.get(pair, 0.0), least)
    found = _settled(links, stacks, apart, x)
    return {node: found[stack] for node, stack in stacks.items()}


def _stacks(
    links: "nx.DiGraph[Node]", layers: Sequence[Sequence[Node]], lanes: Collection[Node]
) -> dict[Node, int]:
    """Number the stacks of nodes that one straight line runs through.

    A link is straight where neither end has one and no straight one crosses it; first
    those within long lines, then those between nodes that have no other, then the
    middle ones of those that fork or join, and the ends of long lines last.
    """
    place = {node: n for layer in layers for n, node in enumerate(layer)}
    layer_of = {node: n for n, layer in enumerate(layers) for node in layer}

    def rank(link: Edge) -> tuple[int, float, int, int]:
        above, below = link
        out, into = links.out_degree(above), links.in_degree(below)
        bends = (above in lanes) + (below in lanes)
        kind = (1 + (out == 1) + (into == 1), 0, 4)[bends]
        beside = [place[n] for n in links.successors(above)]
        over = [place[n] for n in links.predecessors(below)]
        off = abs(place[below] - _mean(beside, 0)) + abs(place[above] - _mean(over, 0))
        return -kind, off, layer_of[above], place[above]

    down: dict[Node, Node] = {}
    up: dict[Node, Node] = {}
    kept: list[list[Edge]] = [[] for _ in layers]
    for above, below in sorted(links.edges, key=rank):
        row = kept[layer_of[above]]
        crosses = any(
            (place[a] - place[above]) * (place[b] - place[below]) < 0 for a, b in row
        )
        if above not in down and below not in up and not crosses:
            down[above], up[below] = below, above
            row.append((above, below))
    found: dict[Node, int] = {}
    for layer in layers:
        for node in layer:
            found[node] = found[up[node]] if node in up else len(set(found.values()))
    return found


def _settled(
    links: "nx.DiGraph[Node]",
    stacks: Mapping[Node, int],
    apart: Mapping[tuple[int, int], float],
    x: Mapping[Node, float],
) -> dict[int, float]:
    """Find a line for each stack, near those that it is linked to.

    ``apart`` are the least distances of stacks that stand side by side; ``x`` is where
    to begin.
    """
    order: nx.DiGraph[int] = nx.DiGraph()
    order.add_nodes_from(stacks.values())
    order.add_edges_from(apart)
    members: dict[int, list[float]] = {}
    near: dict[int, list[int]] = {stack: [] for stack in stacks.values()}
    for node, stack in stacks.items():
        members.setdefault(stack, []).append(x[node])
    for a, b in links.edges:
        if stacks[a] != stacks[b]:
            near[stacks[a]].append(stacks[b])
            near[stacks[b]].append(stacks[a])
    sorted_ = list(nx.topological_sort(order))
    at: dict[int, float] = {}
    for stack in sorted_:
        least = [at[a] + apart[a, stack] for a in order.predecessors(stack)]
        at[stack] = max([_mean(members[stack], 0.0), *least])
    for sweep in range(4 * _SWEEPS):
        for stack in sorted_ if sweep % 2 else sorted_[::-1]:
            wanted = _mean([at[n] for n in near[stack]], at[stack])
            least = [at[a] + apart[a, stack] for a in order.predecessors(stack)]
            most = [at[b] - apart[stack, b] for b in order.successors(stack)]
            at[stack] = max([min([wanted, *most]), *least])
    return at


def _spread(
    layer: Sequence[Node],
    wanted: Mapping[Node, float],
    sizes: Mapping[Node, Size],
    gap: float,
) -> dict[Node, float]:
    """Return the lines nearest to `wanted` that keep the order and do not overlap.

    With the distances subtracted this is isotonic regression, solved by pooling
    adjacent violators.
    """
    offsets, at = [], 0.0
    for n, node in enumerate(layer):
        if n:
            at += sizes[layer[n - 1]].right + sizes[node].left + gap
        offsets.append(at)
    pools: list[tuple[float, int]] = []
    for node, offset in zip(layer, offsets, strict=True):
        total, count = wanted[node] - offset, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            before = pools.pop()
            total, count = total + before[0], count + before[1]
        pools.append((total, count))
    bases = [total / count for total, count in pools for _ in range(count)]
    return dict(zip(layer, map(sum, zip(bases, offsets, strict=True)), strict=True))


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
