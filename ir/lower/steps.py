"""The residual steps of a block as ops."""

from collections.abc import Sequence

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Emitter
from glmc.ir.lower.sublayers import SUBLAYERS

SHORTCUT = "shortcut"
"""The value that a step hands past the layers' sums to the next layer."""


def run(e: Emitter, x: str, steps: Sequence[m.Step], result: str) -> str:
    """One step after the other; the last sum is called ``result``."""
    read: dict[m.Norm | None, str] = {}
    for at, step in enumerate(steps, 1):
        if not step.parallel:
            read = {None: x}
        if step.pre not in read:
            assert step.pre
            read[step.pre] = e.norm(f"h{at}", read[None], step.pre)
        named = result if at == len(steps) else f"x{at}"
        if step.shortcut == "end":
            x = _step(e, x, read[step.pre], step, at, f"x{at}")
            x = e.emit(ops.Add, named, x=x, y=SHORTCUT)
        elif step.shortcut == "begin":
            e.carried[SHORTCUT] = sublayer(e, read[step.pre], step)
        else:
            x = _step(e, x, read[step.pre], step, at, named)
    return x


def _step(e: Emitter, x: str, h: str, step: m.Step, at: int, result: str) -> str:
    """after(residual_scale · r + scale · post(op(h))), where r is x or h, pre(x)."""
    y = sublayer(e, h, step)
    r = h if step.residual == "normed" else x
    if step.residual_scale != 1.0:
        r = e.emit(ops.Scale, f"r{at}", x=r, factor=step.residual_scale)
    if not step.after:
        return str(e.emit(ops.Add, result, x=r, y=y))
    total = e.emit(ops.Add, f"total{at}", x=r, y=y)
    return e.norm(result, total, step.after)


def sublayer(e: Emitter, h: str, step: m.Step) -> str:
    """scale · post(op(h))."""
    y = SUBLAYERS[type(step.op)](e, h, step.op)
    if step.post:
        y = e.norm(f"{y}_normed", y, step.post)
    if step.scale != 1.0:
        y = e.emit(ops.Scale, f"{y}_scaled", x=y, factor=step.scale)
    return y
