"""Lower blocks that work on several residual streams: one of them (AltUp), or a
mixture (hyper-connections)."""

from collections.abc import Sequence

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Axes, Emitter
from glmc.ir.lower.steps import run, sublayer
from glmc.ir.types import TensorType


def hidden_type(model: m.Model) -> TensorType:
    """Return the type of the hidden state that layers hand on, with its streams if
    any."""
    several: tuple[int, ...] = ()
    if isinstance(model.streams, m.Streams | m.HyperStreams):
        several = (model.streams.count,)
    return TensorType(dtype=model.dtype, dims=("B", "T", *several, model.hidden))


def spread(e: Emitter, x: str, streams: m.Streams | m.HyperStreams) -> str:
    """Emit the residual streams that the first layer reads."""
    if isinstance(streams, m.HyperStreams):
        return str(e.emit(ops.RepeatStreams, "x", x=x, count=streams.count))
    weight = _matrices(e, streams.spread, streams)
    return str(e.emit(ops.SpreadStreams, "x", x=x, weight=weight))


def gather(e: Emitter, x: str, streams: m.Streams | m.HyperStreams) -> str:
    """Emit the hidden state that the head reads, from all streams."""
    if isinstance(streams, m.HyperStreams):
        if streams.head is None:
            return str(e.emit(ops.MeanStreams, "gathered", x=x))
        maps = _maps(e, streams, streams.head, streams.count, 1)
        fields = {"x": x, **maps, "eps": streams.eps, "norm_eps": streams.norm_eps}
        return str(e.emit(ops.HyperHead, "gathered", **fields))
    weight = _matrices(e, streams.gather, streams)
    return str(e.emit(ops.GatherStreams, "gathered", x=x, weight=weight))


def _maps(
    e: Emitter, streams: m.HyperStreams, maps: m.HyperMaps, rows: int, kinds: int
) -> dict[str, str]:
    """Declare the maps of all streams of a token to some coefficients."""
    axes = {"Nc": rows, "Nh": streams.count, "Ns": kinds}
    slots = {"fn": ("Nc", "Nh E"), "base": ("Nc",), "scale": ("Ns",)}
    return {
        name: e.weight(getattr(maps, name), slot, axes, dtype="f32")
        for name, slot in slots.items()
    }


def hyper(e: Emitter, streams: m.HyperStreams, steps: Sequence[m.Step]) -> str:
    """Emit the steps of a block, each of which reads a mixture of all streams and hands
    what it makes out to them."""
    x, mixes, count = "x", streams.iterations > 0, streams.count
    how = {name: getattr(streams, name) for name in _HYPER}
    for n, step in enumerate(steps, 1):
        assert step.hyper
        maps = _maps(e, streams, step.hyper, (2 + count * mixes) * count, 2 + mixes)
        names = (f"m{n}", f"post{n}", *([f"comb{n}"] if mixes else []))
        h, *back = e.emit(ops.HyperRead, *names, x=x, **maps, **how)
        if step.pre:
            h = e.norm(f"h{n}", h, step.pre)
        fields = dict(zip(("post", "comb"), back, strict=False))
        fields |= {"x": x, "y": sublayer(e, h, step)}
        result = "out" if n == len(steps) else f"x{n}"
        x = str(e.emit(ops.HyperWrite, result, **fields))
    return x


_HYPER = ("eps", "norm_eps", "iterations", "reach", "floor")


def _matrices(e: Emitter, weight: m.Weight, streams: m.Streams) -> str:
    return e.weight(weight, ("Nx", "E_out", "E"), {"Nx": streams.count - 1})


def altered(e: Emitter, a: m.AltUp, steps: tuple[m.Step, ...]) -> str:
    """Emit a prediction of all streams, the steps on one, and the correction of the
    others.

    The steps for the ``others`` read the corrected stream, and what they make is added
    to all streams but the first.
    """
    streams = e.model.streams
    assert isinstance(streams, m.Streams)
    count, at = streams.count, streams.active
    axes = {"N": count, "NN": count * count}
    within = tuple(step for step in steps if not step.others)
    active = e.emit(ops.Stream, "active", x="x", at=at)
    seen = _modalities(e, a, active, axes, "seen")
    coefs = e.linear("predict", seen, a.predict, ("NN", "N"), axes)
    predicted = e.emit(ops.MixStreams, "predicted", x="x", coefs=coefs)
    y = run(e, str(e.emit(ops.Stream, "x0", x=predicted, at=at)), within, "activated")
    seen = _modalities(e, a, y, axes, "seen_after")
    coefs = e.linear("correct", seen, a.correct, ("N", "N_in"), axes | {"N_in": count})
    last = "out" if len(within) == len(steps) else "corrected"
    fields = {"x": predicted, "y": y, "coefs": coefs, "at": at}
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
    assert isinstance(e.model.streams, m.Streams)
    h = str(e.emit(ops.Stream, "told", x=x, at=e.model.streams.active))
    if a.scale:
        weight = e.weight(a.scale, ("E",))
        h = str(e.emit(ops.ScaleBy, "told_scaled", x=h, weight=weight))
    if step.pre:
        h = e.norm("told_normed", h, step.pre)
    return str(e.emit(ops.AddToOthers, result, x=x, y=sublayer(e, h, step)))
