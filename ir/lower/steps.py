"""Lower the residual steps of a block."""

from collections.abc import Sequence

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Emitter
from glmc.ir.lower.sublayers import SUBLAYERS

SHORTCUT = "shortcut"
"""The value that a step hands past the layers' sums to the next layer."""
FACTORS = "factors"
"""The constants that a layer's steps multiply by, where layers differ in them."""

Factor = float | tuple[float, ...]
Factors = Sequence[tuple[float, ...]]


def varied(steps: Sequence[m.Step]) -> list[tuple[float, ...]]:
    """Return the factors of steps that are not the same in every layer of their
    block."""
    given = [each for step in steps for each in (step.residual_scale, step.scale)]
    return list(dict.fromkeys(each for each in given if isinstance(each, tuple)))


def run(e: Emitter, x: str, steps: Sequence[m.Step], result: str) -> str:
    """Emit one step after the other; the last sum is called ``result``."""
    read: dict[m.Norm | None, str] = {}
    factors = varied(steps)
    for at, step in enumerate(steps, 1):
        if not step.parallel:
            read = {None: x}
        if step.pre not in read:
            assert step.pre
            read[step.pre] = e.norm(f"h{at}", read[None], step.pre)
        named = result if at == len(steps) else f"x{at}"
        if step.shortcut == "end":
            x = _step(e, x, read[step.pre], step, at, f"x{at}", factors)
            x = e.emit(ops.Add, named, x=x, y=SHORTCUT)
        elif step.shortcut == "begin":
            e.carried[SHORTCUT] = sublayer(e, read[step.pre], step, factors)
        else:
            x = _step(e, x, read[step.pre], step, at, named, factors)
    return x


def _step(
    e: Emitter, x: str, h: str, step: m.Step, at: int, result: str, factors: Factors
) -> str:
    """Emit after(residual_scale · r + scale · post(op(h))), where r is x or h =
    pre(x)."""
    y = sublayer(e, h, step, factors)
    r = h if step.residual == "normed" else x
    r = _times(e, f"r{at}", r, step.residual_scale, factors)
    if not step.after:
        return str(e.emit(ops.Add, result, x=r, y=y))
    total = e.emit(ops.Add, f"total{at}", x=r, y=y)
    return e.norm(result, total, step.after)


def _times(e: Emitter, result: str, x: str, factor: Factor, factors: Factors) -> str:
    """Emit x times a factor, which is a constant or one of the layer's factors."""
    if factor == 1.0:
        return x
    if isinstance(factor, tuple):
        fields = {"factors": FACTORS, "at": factors.index(factor)}
        return str(e.emit(ops.ScaleByFactor, result, x=x, **fields))
    return str(e.emit(ops.Scale, result, x=x, factor=factor))


def sublayer(e: Emitter, h: str, step: m.Step, factors: Factors = ()) -> str:
    """Emit scale · post(op(h))."""
    y = SUBLAYERS[type(step.op)](e, h, step.op)
    if step.post:
        y = e.norm(f"{y}_normed", y, step.post)
    return _times(e, f"{y}_scaled", y, step.scale, factors)
