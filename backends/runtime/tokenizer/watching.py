"""Change a template's tree so that what it does is counted.

Loops, macros and blocks pay for each round of their bodies; what is written, joined,
compared, hashed and sliced goes through a filter that weighs it. Filters, calls and
operators are counted where Jinja's sandbox calls them.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from .budget import TooMuchError

#: Deeper trees are no chat template's; Jinja and Python's compiler recurse over them.
MAX_DEPTH = 200
MAX_NODES = 1 << 15
#: Python's parser takes branches for depth.
MAX_BRANCHES = 500
#: Bytes of an object and of a place in it.
OBJECT, PLACE = 64, 100


def watched(tree: Any, nodes: Any) -> Any:
    """Puts filters that count into the tree of a template; `nodes` is jinja2.nodes.

    Raises TooMuchError where it is too deep or too large.
    """
    everything = list(_descend(tree))

    def through(name: str, node: Any, *args: int) -> Any:
        given = [nodes.Const(value, lineno=node.lineno) for value in args]
        return nodes.Filter(node, name, given, [], None, None, lineno=node.lineno)

    for node in everything:
        if isinstance(node, nodes.Getitem):
            if isinstance(node.arg, nodes.Slice):
                node.node = through("_sliced", node.node)
            elif not isinstance(node.arg, nodes.Const):
                node.arg = through("_walked", node.arg)
        elif isinstance(node, nodes.Compare):
            _watch_comparison(node, nodes, through)
        elif isinstance(node, nodes.Pair) and not isinstance(node.key, nodes.Const):
            node.key = through("_walked", node.key)
        elif isinstance(node, nodes.Concat):
            node.nodes = [through("_printed", part) for part in node.nodes]
        elif isinstance(node, nodes.For):
            node.iter = through("_counted", node.iter)
        elif isinstance(node, nodes.Output):
            node.nodes = [
                part
                if isinstance(part, nodes.TemplateData | nodes.Const)
                else through("_printed", part)
                for part in node.nodes
            ]
    for node in everything:
        for body in _bodies(node, nodes):
            steps, size = _cost(body, nodes)
            start = nodes.Const(steps, lineno=node.lineno or 1)
            pays = through("_spent", start, size)
            body.insert(0, nodes.Output([pays], lineno=start.lineno))
    return tree


def _descend(tree: Any) -> Iterator[Any]:
    count, level = 0, [(tree, 0)]
    while level:
        node, depth = level.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_NODES:
            raise TooMuchError(
                f"a template of more than {MAX_NODES} parts"
                if count > MAX_NODES
                else f"parts of a template {MAX_DEPTH} deep in each other"
            )
        if len(getattr(node, "elif_", ())) > MAX_BRANCHES:
            raise TooMuchError(f"more than {MAX_BRANCHES} branches")
        yield node
        level += [(child, depth + 1) for child in node.iter_child_nodes()]


def _watch_comparison(node: Any, nodes: Any, through: Any) -> None:
    """Counts a comparison; one with a single word looks at no more than that word."""
    if len(node.ops) == 1:
        other = node.ops[0]
        if other.op not in ("in", "notin"):
            if isinstance(node.expr, nodes.Const) or isinstance(
                other.expr, nodes.Const
            ):
                return
        elif isinstance(other.expr, nodes.Const | nodes.List | nodes.Tuple):
            node.expr = through("_walked", node.expr)
            return
    node.expr = through("_walked", node.expr)
    for operand in node.ops:
        operand.expr = through("_walked", operand.expr)


def _bodies(node: Any, nodes: Any) -> Iterable[list[Any]]:
    """Returns the bodies that a node runs once or many times: each time it pays."""
    if isinstance(node, nodes.For):
        return [node.body, node.else_] if node.else_ else [node.body]
    repeated = nodes.Template | nodes.Macro | nodes.CallBlock | nodes.Block
    return [node.body] if isinstance(node, repeated) else []


def _cost(body: list[Any], nodes: Any) -> tuple[int, int]:
    """Returns the steps and the bytes of running a body once; of branches, the
    dearest."""
    inner = nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block
    steps, size = 4, 0
    level: list[Any] = list(body)
    while level:
        node = level.pop()
        steps += 1
        if isinstance(node, nodes.If):
            branches = [node.body, node.else_, *(part.body for part in node.elif_)]
            costs = [_cost(branch, nodes) for branch in branches]
            steps += max(cost[0] for cost in costs)
            size += max(cost[1] for cost in costs)
            level += [node.test, *(part.test for part in node.elif_)]
            continue
        if isinstance(node, nodes.TemplateData):
            size += sys.getsizeof(node.data)
            steps += len(node.data) // 256
        elif isinstance(node, nodes.List | nodes.Tuple | nodes.Dict):
            size += OBJECT
        elif isinstance(node, nodes.Pair):
            size += PLACE
        bodies = {id(part) for part in [*getattr(node, "body", [])]}
        bodies |= {id(part) for part in getattr(node, "else_", None) or []}
        skip = bodies if isinstance(node, inner) else set()
        level += [n for n in node.iter_child_nodes() if id(n) not in skip]
    return steps, size
