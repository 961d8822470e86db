"""Weights that a layer shares with an earlier one, of which files may hold copies."""

import re
from collections.abc import Iterator

from glmc.frontends.spec import Spec
from glmc.ir import model as m
from glmc.ir.node import Node

OTHER = (
    "is another than that of the layer whose weights this one shares, and one of the"
    " two would be lost; give the checkpoint as it was published"
)


def copies(spec: Spec, blocks: tuple[m.Block, ...]) -> Iterator[m.Expected]:
    """Yield what is expected of the copies that layers may have of the weights of an
    earlier one: that they are the same."""
    before, after = map(re.escape, spec.layer_root.split("{i}"))
    named = re.compile(f"{before}([0-9]+){after}")
    for block in blocks:
        names = dict.fromkeys(one.tensor for one in weights(block))
        for name in names:
            found = named.match(name)
            for layer in block.numbers or block.layers:
                own = spec.layer_root.replace("{i}", str(layer))
                if found and found[0] != own:
                    copy = own + name[found.end() :]
                    yield m.Expected(
                        pattern=copy, kind="same", value=name, otherwise=OTHER
                    )


def waived(copy: m.Expected) -> m.Waiver:
    """Return why a copy is not read."""
    return m.Waiver(pattern=copy.pattern, reason="a copy of weights that layers share")


def weights(node: Node) -> Iterator[m.Weight]:
    """Yield all weights of a node."""
    for name in type(node).model_fields:
        value = getattr(node, name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, m.Weight):
                yield one
            elif isinstance(one, Node):
                yield from weights(one)
