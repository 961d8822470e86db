"""Recurrent units of channels as ops."""

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Axes, Emitter
from glmc.ir.lower.mixers import convolved, gated
from glmc.ir.state import RowType


def lru(e: Emitter, h: str, a: m.Lru) -> str:
    """Emit a gated linear recurrent unit, and its gate."""
    width = a.channels // a.heads
    axes = {"Ic": a.channels, "Hb": a.heads, "Bi": width, "Bo": width}
    v = e.linear("v", h, a.v, ("Ic", "E"), axes)
    v = convolved(e, "v", v, a.conv, "Ic", axes)
    made = {}
    for name, gate in (("i", a.input), ("r", a.recurrence)):
        weight = e.weight(gate.weight, ("Hb", "Bi", "Bo"), axes)
        bias = e.bias(weight, gate.bias, ("Hb", "Bo"), axes)
        fields = {"x": v, "weight": weight, "bias": bias}
        made[name] = e.emit(ops.BlockLinear, f"{name}_gate", **fields)
    made["rate"] = e.weight(a.rate, ("Ic",), axes, dtype="f32")
    made["state"] = e.state("scan", RowType(sizes=(a.channels,), dtype="f32"))
    y = e.emit(ops.LruScan, "read", "scan_now", x=v, **made, power=a.power)[0]
    z = e.linear("z", h, a.gate, ("Ic", "E"), axes)
    return e.linear("mixed", gated(e, str(y), z, a.act), a.o, ("E", "Ic"), axes)


def time_mix(e: Emitter, h: str, a: m.TimeMix) -> str:
    """Emit a mean of values behind a gate."""
    axes = {"Ic": a.channels}
    before = _shifted(e, h)
    k = _blended(e, "k", h, before, a.k_blend, a.k, ("Ic", "E"), axes)
    v = _blended(e, "v", h, before, a.v_blend, a.v, ("Ic", "E"), axes)
    z = _blended(e, "z", h, before, a.gate_blend, a.gate, ("Ic", "E"), axes)
    fields = {"k": k, "v": v}
    for name in ("rate", "first"):
        fields[name] = e.weight(getattr(a, name), ("Ic",), axes, dtype="f32")
    fields["state"] = e.state("scan", RowType(sizes=(3, a.channels), dtype="f32"))
    y = str(e.emit(ops.WkvScan, "read", "scan_now", **fields)[0])
    return e.linear("mixed", gated(e, y, z, "sigmoid"), a.o, ("E", "Ic"), axes)


def channel_mix(e: Emitter, h: str, a: m.ChannelMix) -> str:
    """Emit a feed-forward of blended tokens behind a gate."""
    axes = {"F": a.ff}
    before = _shifted(e, h)
    up = _blended(e, "up", h, before, a.up_blend, a.up, ("F", "E"), axes)
    z = _blended(e, "z", h, before, a.gate_blend, a.gate, ("E_out", "E"), axes)
    ff = e.emit(ops.Activation, "ff", x=up, fn=a.act)
    y = e.linear("mlp", ff, a.down, ("E", "F"), axes)
    return gated(e, y, z, "sigmoid")


def _shifted(e: Emitter, h: str) -> str:
    """Emit the token before each token of h."""
    kept = e.state("token", RowType(sizes=(e.model.hidden,)))
    return str(e.emit(ops.TokenShift, "before", "token_now", x=h, state=kept)[0])


def _blended(
    e: Emitter,
    name: str,
    h: str,
    before: str,
    blend: m.Weight,
    projection: m.Projection,
    slot: tuple[str, str],
    axes: Axes,
) -> str:
    """Emit a projection of tokens that are blended with those before them."""
    weight = e.weight(blend, ("E",), axes)
    x = e.emit(ops.Blend, f"{name}_in", x=h, y=before, weight=weight)
    return e.linear(name, x, projection, slot, axes)
