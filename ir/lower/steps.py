"""Lower the residual steps of a block."""

from collections.abc import Sequence

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Emitter
from glmc.ir.lower.factors import FACTORS, Factor
from glmc.ir.lower.sublayers import SUBLAYERS

SHORTCUT = "shortcut"
"""The value that a step hands past the layers' sums to the next layer."""


def run(e: Emitter, x: str, steps: Sequence[m.Step], result: str) -> str:
    """Emit one step after the other; the last sum is called ``result``."""
    read: dict[m.Norm | None, str] = {}
    for at, step in enumerate(steps, 1):
        if not step.parallel:
            read = {None: x}
        if step.aside:
            aside = SUBLAYERS[m.Chain](e, x, step.aside)
            read = {None: str(e.emit(ops.Add, f"r{at}", x=x, y=aside))}
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
    """Emit after(residual_scale · r + scale · post(op(h))), where r is x or h =
    pre(x)."""
    y = sublayer(e, h, step)
    r = h if step.residual == "normed" else x
    r = _times(e, f"r{at}", r, step.residual_scale)
    if not step.after:
        return str(e.emit(ops.Add, result, x=r, y=y))
    total = e.emit(ops.Add, f"total{at}", x=r, y=y)
    return e.norm(result, total, step.after)


def _times(e: Emitter, result: str, x: str, factor: Factor) -> str:
    """Emit x times a factor, which is a constant or one of the layer's factors."""
    if factor == 1.0:
        return x
    if isinstance(factor, tuple):
        fields = {"factors": FACTORS, "at": e.factors.index(factor)}
        return str(e.emit(ops.ScaleByFactor, result, x=x, **fields))
    return str(e.emit(ops.Scale, result, x=x, factor=factor))


def sublayer(e: Emitter, h: str, step: m.Step) -> str:
    """Emit scale · post(op(h))."""
    y = SUBLAYERS[type(step.op)](e, h, step.op)
    if step.post:
        y = e.norm(f"{y}_normed", y, step.post)
    return _times(e, f"{y}_scaled", y, step.scale)
