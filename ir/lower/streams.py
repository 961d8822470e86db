"""Lower a block that works on one of several residual streams (AltUp)."""

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Axes, Emitter
from glmc.ir.lower.steps import run, sublayer
from glmc.ir.types import TensorType


def hidden_type(model: m.Model) -> TensorType:
    """Return the type of the hidden state that layers hand on, with its streams if
    any."""
    streams = (model.streams.count,) if model.streams else ()
    return TensorType(dtype=model.dtype, dims=("B", "T", *streams, model.hidden))


def spread(e: Emitter, x: str, streams: m.Streams) -> str:
    """Emit the residual streams that the first layer reads."""
    weight = _matrices(e, streams.spread, streams)
    return str(e.emit(ops.SpreadStreams, "x", x=x, weight=weight))


def gather(e: Emitter, x: str, streams: m.Streams) -> str:
    """Emit the hidden state that the head reads, from all streams."""
    weight = _matrices(e, streams.gather, streams)
    return str(e.emit(ops.GatherStreams, "gathered", x=x, weight=weight))


def _matrices(e: Emitter, weight: m.Weight, streams: m.Streams) -> str:
    return e.weight(weight, ("Nx", "E_out", "E"), {"Nx": streams.count - 1})


def altered(e: Emitter, a: m.AltUp, steps: tuple[m.Step, ...]) -> str:
    """Emit a prediction of all streams, the steps on one, and the correction of the
    others.

    The steps for the ``others`` read the corrected stream, and what they make is added
    to all streams but the first.
    """
    assert e.model.streams
    count, at = e.model.streams.count, e.model.streams.active
    axes = {"N": count, "NN": count * count}
    within = tuple(step for step in steps if not step.others)
    active = e.emit(ops.Stream, "active", x="x", at=at)
    seen = _modalities(e, a, active, axes, "seen")
    coefs = e.linear("predict", seen, a.predict, ("NN", "N"), axes)
    streams = e.emit(ops.MixStreams, "predicted", x="x", coefs=coefs)
    y = run(e, str(e.emit(ops.Stream, "x0", x=streams, at=at)), within, "activated")
    seen = _modalities(e, a, y, axes, "seen_after")
    coefs = e.linear("correct", seen, a.correct, ("N", "N_in"), axes | {"N_in": count})
    last = "out" if len(within) == len(steps) else "corrected"
    fields = {"x": streams, "y": y, "coefs": coefs, "at": at}
    x = str(e.emit(ops.CorrectStreams, last, **fields))
    others = [step for step in steps if step.others]
    for n, step in enumerate(others, 1):
        x = _for_others(e, a, x, step, "out" if n == len(others) else f"others{n}")
    return x


def _modalities(e: Emitter, a: m.AltUp, x: str, axes: Axes, result: str) -> str:
    """Emit tanh(router(router_scale · norm(x))), from which streams are mixed."""
    x = e.norm(f"{result}_in", x, a.router_norm)
    x = e.emit(ops.Scale, f"{result}_scaled", x=x, factor=a.router_scale)
    routed = e.linear(f"{result}_routed", x, a.router, ("N", "E"), axes)
    return str(e.emit(ops.Activation, result, x=routed, fn="tanh"))


def _for_others(e: Emitter, a: m.AltUp, x: str, step: m.Step, result: str) -> str:
    assert e.model.streams
    h = str(e.emit(ops.Stream, "told", x=x, at=e.model.streams.active))
    if a.scale:
        weight = e.weight(a.scale, ("E",))
        h = str(e.emit(ops.ScaleBy, "told_scaled", x=h, weight=weight))
    if step.pre:
        h = e.norm("told_normed", h, step.pre)
    return str(e.emit(ops.AddToOthers, result, x=x, y=sublayer(e, h, step)))
