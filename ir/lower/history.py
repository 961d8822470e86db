"""Lower blocks whose sublayers read a mixture of the stream and its snapshots."""

from collections.abc import Sequence

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Emitter
from glmc.ir.lower.steps import sublayer

SNAPSHOTS = "snapshots"
"""The value that hands snapshots of the residual stream from layer to layer."""


def mixed(e: Emitter, x: str, snapshots: str, mix: m.ResidualMix, result: str) -> str:
    """Emit the mixture of the stream and its snapshots that a sublayer, or the head,
    reads."""
    fields = {
        "snapshots": snapshots,
        "x": x,
        "norm": e.weight(mix.norm, ("E",)),
        "weight": e.weight(mix.project, ("1", "E"), {"1": 1}),
    }
    return str(e.emit(ops.MixSnapshots, result, **fields, eps=mix.eps))


def remembered(e: Emitter, steps: Sequence[m.Step]) -> str:
    """Emit the steps of a block; one that takes a snapshot begins the stream anew."""
    x = "x"
    for n, step in enumerate(steps, 1):
        assert step.mix
        h = mixed(e, x, e.carried[SNAPSHOTS], step.mix, f"m{n}")
        if step.pre:
            h = e.norm(f"h{n}", h, step.pre)
        if step.snapshot:
            kept = {"snapshots": e.carried[SNAPSHOTS], "x": x}
            e.carried[SNAPSHOTS] = e.emit(ops.Snapshot, "kept", **kept)
        y, result = sublayer(e, h, step), "out" if n == len(steps) else f"x{n}"
        x = y if step.snapshot else str(e.emit(ops.Add, result, x=x, y=y))
    return x
