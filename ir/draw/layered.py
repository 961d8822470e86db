"""Layered drawing of a directed acyclic graph (Sugiyama's method).

Layers by longest path, edges that span several layers broken at dummy nodes, orders by
barycentre sweeps, coordinates by a least-squares fit that keeps orders and distances.
K. Sugiyama, S. Tagawa, M. Toda: "Methods for Visual Understanding of Hierarchical
System Structures", IEEE Transactions on Systems, Man, and Cybernetics 11(2), 1981.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

Node = Hashable
Point = tuple[float, float]
Edge = tuple[Node, Node]
_SWEEPS = 12
#: Width of the dummy node at which a long edge passes through a layer.
_LANE = 12.0


@dataclass(frozen=True)
class Placed:
    """Centres of the nodes, the points each edge runs through, and the whole size."""

    centres: Mapping[Node, Point]
    routes: Mapping[Edge, tuple[Point, ...]]
    width: float
    height: float


def place(
    widths: Mapping[Node, float],
    edges: Sequence[Edge],
    *,
    row: float,
    gap: float,
) -> Placed:
    """Place the nodes: layers `row` apart, nodes of a layer at least `gap` apart.

    Raises:
        networkx.NetworkXUnfeasible: when the edges form a cycle.
    """
    ranks = _ranks(list(widths), edges)
    chains = {edge: _chain(edge, ranks) for edge in dict.fromkeys(edges)}
    sizes = dict(widths)
    for chain in chains.values():
        sizes |= dict.fromkeys(chain[1:-1], _LANE)
        ranks |= {dummy: ranks[chain[0]] + n for n, dummy in enumerate(chain[1:-1], 1)}
    links: nx.DiGraph[Node] = nx.DiGraph()
    links.add_nodes_from(sizes)
    links.add_edges_from(pair for chain in chains.values() for pair in pairwise(chain))
    layers = _ordered(links, ranks)
    dummies = [chain[1:-1] for chain in chains.values()]
    x = _columns(links, layers, dummies, sizes, gap)
    left = min(x[n] - sizes[n] / 2 for n in sizes)
    right = max(x[n] + sizes[n] / 2 for n in sizes)
    at = {n: (x[n] - left, ranks[n] * row) for n in sizes}
    return Placed(
        centres={n: at[n] for n in widths},
        routes={edge: tuple(at[n] for n in chain) for edge, chain in chains.items()},
        width=right - left,
        height=(len(layers) - 1) * row,
    )


def _ranks(nodes: Sequence[Node], edges: Sequence[Edge]) -> dict[Node, int]:
    """Assign layers by longest path; a source stands right above its first reader."""
    graph: nx.DiGraph[Node] = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from(edges)
    ranks: dict[Node, int] = {}
    for rank, generation in enumerate(nx.topological_generations(graph)):
        ranks |= dict.fromkeys(generation, rank)
    for node in nodes:
        below = [ranks[target] for target in graph.successors(node)]
        if below and not graph.in_degree(node):
            ranks[node] = min(below) - 1
    return ranks


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
    chains: Sequence[Sequence[Node]],
    sizes: Mapping[Node, float],
    gap: float,
) -> dict[Node, float]:
    """Find a centre for each node near those of its neighbours.

    ``chains`` are the dummies of each long edge.
    """
    x: dict[Node, float] = {}
    for layer in layers:
        x |= _spread(layer, dict.fromkeys(layer, 0.0), sizes, gap)
    for sweep in range(2 * _SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            near = {n: [*links.predecessors(n), *links.successors(n)] for n in layer}
            wanted = {n: _mean([x[m] for m in near[n]], x[n]) for n in layer}
            x |= _spread(layer, wanted, sizes, gap)
    for _ in range(_SWEEPS):  # then each long edge into a line of its own
        lanes = {n: _mean([x[d] for d in lane], 0) for lane in chains for n in lane}
        for layer in layers:
            x |= _spread(layer, x | lanes, sizes, gap)
    return x


def _spread(
    layer: Sequence[Node],
    wanted: Mapping[Node, float],
    sizes: Mapping[Node, float],
    gap: float,
) -> dict[Node, float]:
    """Return the centres nearest to `wanted` that keep the order and do not overlap.

    With the distances subtracted this is isotonic regression, solved by pooling
    adjacent violators.
    """
    offsets, at = [], 0.0
    for n, node in enumerate(layer):
        if n:
            at += (sizes[layer[n - 1]] + sizes[node]) / 2 + gap
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
