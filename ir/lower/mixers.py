"""Mixers as ops: projections, short convolutions, a scan, a gated norm."""

from glmc.ir import model as m
from glmc.ir import ops
from glmc.ir.lower.emitter import Axes, Emitter
from glmc.ir.lower.factors import FACTORS
from glmc.ir.state import RowType


def mixer(e: Emitter, h: str, a: m.Mixer) -> str:
    """Emit a scan over queries, keys and values, then its norm, gate and projection."""
    axes = {"Hm": a.heads, "Gm": a.groups, "Rm": a.heads // a.groups}
    axes |= {"Dk": a.key_dim, "Dv": a.value_dim}
    parts = {}
    for name, projection, n, slot in (
        ("q", a.q, a.groups, "Gm Dk"),
        ("k", a.k, a.groups, "Gm Dk"),
        ("v", a.v, a.heads, "Hm Dv"),
    ):
        x = e.linear(name, h, projection, (slot, "E"), axes)
        x = e.scaled(f"{name}s", x, getattr(a, f"{name}_scale"))
        x = convolved(e, name, x, a.conv, slot, axes)
        x = e.emit(ops.Activation, f"{name}a", x=x, fn=a.act) if a.act else x
        parts[name] = e.emit(ops.Heads, f"{name}h", x=x, n=n)
    y = _scanned(e, h, a, parts, axes)
    y = _normed(e, h, a, y, axes)
    return e.linear("mixed", y, a.o, ("E", "Hm Dv"), axes)


def convolved(
    e: Emitter, name: str, x: str, conv: m.ShortConv | None, slot: str, axes: Axes
) -> str:
    """Emit the short convolution of one of q, k and v, if it has one."""
    stored: m.Projection | None = getattr(conv, name, None)
    if conv is None or stored is None:
        return x
    axes = {**axes, "Wc": conv.width}
    weight = e.weight(stored.weight, (slot, "Wc"), axes)
    bias = e.bias(weight, stored.bias, (slot,), axes)
    channels = int(e.types[x].dims[-1])
    kept = e.state(f"conv_{name}", RowType(sizes=(channels, conv.width)))
    fields = {"x": x, "weight": weight, "bias": bias, "state": kept, "fn": conv.act}
    made = e.emit(ops.ShortConv, f"{name}c", f"conv_{name}_now", **fields)
    return str(made[0])


def _scanned(e: Emitter, h: str, a: m.Mixer, parts: dict[str, str], axes: Axes) -> str:
    """Emit the scan, and the decays, steps and betas that it takes."""
    if a.memory:
        return _remembered(e, h, a, a.memory, parts, axes)
    if a.decay:
        step, g = _decayed(e, h, a.decay, axes)
    else:
        step, g = None, _steady(e, h, a)
    q, k, v = (parts[name] for name in "qkv")
    if a.l2_eps is not None:
        q = e.emit(ops.L2Normalize, "qn", x=q, eps=a.l2_eps)
        k = e.emit(ops.L2Normalize, "kn", x=k, eps=a.l2_eps)
    if step and a.decay and a.decay.steps:
        v = e.emit(ops.ScaleEach, "vs", x=v, factor=step)
    beta = None
    if a.beta:
        beta = e.linear("beta_raw", h, a.beta, ("Hm", "E"), axes)
        beta = e.emit(ops.Sigmoid, "beta", x=beta, factor=a.beta_scale)
    sizes = (a.heads, a.key_dim, a.value_dim)
    kept = e.state("scan", RowType(sizes=sizes, dtype="f32"))
    fields = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "state": kept}
    made = e.emit(ops.Scan, "read", "scan_now", **fields, scale=a.scale)
    y = str(made[0])
    if a.skip:
        weight = e.weight(a.skip, ("Hm",), axes, dtype="f32")
        y = e.emit(ops.AddSkip, "skipped", y=y, x=parts["v"], weight=weight)
    return y


def _decayed(e: Emitter, h: str, d: m.Decay, axes: Axes) -> tuple[str | None, str]:
    """Emit the decays, and the steps that they are made of where they are."""
    slot, read = "Hm" if d.of == "head" else "Hm Dk", "E"
    if d.rank and d.down:
        axes, read = {**axes, "Rd": d.rank}, "Rd"
        h = e.linear("step_low", h, d.down, ("Rd", "E"), axes)
    raw = e.linear("step_raw", h, d.project, (slot, read), axes)
    raw = e.scaled("step_scaled", raw, d.scale)
    bias = e.weight(d.bias, (slot,), axes, dtype="f32") if d.bias else None
    a_log = e.weight(d.a_log, ("Hm",), axes, dtype="f32")
    if d.floor is not None:
        fields = {"x": raw, "a_log": a_log, "bias": bias, "floor": d.floor}
        return None, str(e.emit(ops.BoundedDecay, "g", **fields))
    limits = {"low": d.low, "high": d.high}
    step = str(e.emit(ops.StepSize, "step", x=raw, bias=bias, **limits))
    return step, str(e.emit(ops.Decay, "g", step=step, a_log=a_log))


def _remembered(
    e: Emitter,
    h: str,
    a: m.Mixer,
    memory: m.Memory,
    parts: dict[str, str],
    axes: Axes,
) -> str:
    """Emit a scan with exponential gates, and its gates."""
    made = dict(parts)
    for name, gate in (("i", memory.input), ("f", memory.forget)):
        x = e.linear(f"{name}_raw", h, gate, ("Hm", "E"), axes)
        if memory.cap is not None:
            x = e.emit(ops.SoftCap, f"{name}_gate", x=x, cap=memory.cap)
        made[name] = x
    sizes = (a.heads, a.key_dim, a.value_dim + 1)
    made["state"] = e.state("scan", RowType(sizes=sizes, dtype="f32"))
    made["most"] = e.state("most", RowType(sizes=(a.heads,), dtype="f32"))
    how = {"scale": a.scale, "eps": memory.eps}
    return str(e.emit(ops.MemoryScan, "read", **made, **how))


def _steady(e: Emitter, h: str, a: m.Mixer) -> str:
    """Emit a decay that no token changes, but the number of the layer may."""
    assert a.steady
    fields: dict[str, object] = {"heads": a.heads, "reach": a.steady.reach}
    if isinstance(a.steady.scale, tuple):
        fields |= {"factors": FACTORS, "at": e.factors.index(a.steady.scale)}
    else:
        fields["scale"] = a.steady.scale
    return str(e.emit(ops.SteadyDecay, "g", x=h, **fields))


def _normed(e: Emitter, h: str, a: m.Mixer, y: str, axes: Axes) -> str:
    """Emit the gated norm of the scan's result."""
    norm, read = a.norm, "E"
    groups = {"head": a.heads, "group": a.groups, "all": 1}[norm.of]
    slot = "Dv" if norm.of == "head" else "Hm Dv"
    if norm.rank and norm.down:
        axes, read = {**axes, "Rz": norm.rank}, "Rz"
        h = e.linear("z_low", h, norm.down, ("Rz", "E"), axes)
    z = e.linear("z", h, norm.gate, ("Hm Dv", read), axes)
    z = e.scaled("z_scaled", z, norm.gate_scale)
    if norm.eps is None or norm.weight is None:
        return gated(e, y, z, norm.act)
    weight = e.weight(norm.weight, (slot,), axes)
    how = {"eps": norm.eps, "fn": norm.act, "order": norm.order}
    how |= {"centred": norm.centred}
    fields = {"x": y, "z": z, "weight": weight, "weight_in": norm.weight_in}
    return str(e.emit(ops.GatedNorm, "normed", **fields, **how, groups=groups))


def gated(e: Emitter, y: str, z: str, act: str) -> str:
    """Emit y times the gate act(z)."""
    if act == "sigmoid":
        return str(e.emit(ops.Gate, "gated", x=y, g=z, fn=act))
    opened = e.emit(ops.Activation, "opened", x=z, fn=act)
    return str(e.emit(ops.Mul, "gated", x=opened, y=y))


def gated_conv(e: Emitter, h: str, a: m.GatedConv) -> str:
    """Emit a short convolution between two gates."""
    axes = {"Ec": e.model.hidden}
    parts = ((name, getattr(a, name)) for name in "kvq")
    k, v, q = (e.linear(name, h, of, ("Ec", "E"), axes) for name, of in parts)
    kv = str(e.emit(ops.Mul, "kv", x=k, y=v))
    y = convolved(e, "v", kv, a.conv, "Ec", axes)
    y = e.emit(ops.Mul, "gated", x=q, y=y)
    return e.linear("mixed", y, a.o, ("E", "Ec"), axes)


def selective(e: Emitter, h: str, a: m.Selective) -> str:
    """Emit a scan of channels, what it is made of, and its gate."""
    axes = {"Ic": a.channels, "Ns": a.state, "Rd": a.rank}
    axes |= {"Hb": a.heads, "Bi": a.channels // a.heads}
    v = e.linear("v", h, a.v, ("Ic", "E"), axes)
    v = convolved(e, "v", v, a.conv, "Ic", axes)
    made = {}
    for name, projection, norm, slot in (
        ("step_low", a.step_down, a.step_norm, "Rd"),
        ("k", a.k, a.k_norm, "Ns"),
        ("q", a.q, a.q_norm, "Ns"),
    ):
        x = _by_head(e, name, v, projection, (slot, "Ic", "Bi"), axes)
        made[name] = e.norm(f"{name}n", x, norm, (slot,), axes) if norm else x
    slots = ("Ic" if a.heads == 1 else "Bi", "Rd", "Rd")
    alone = m.Projection(weight=a.step.weight)
    raw = _by_head(e, "step_raw", made["step_low"], alone, slots, axes)
    channel = "Ic" if a.heads == 1 else "Hb Bi"
    bias = a.step.bias and e.weight(a.step.bias, (channel,), axes, dtype="f32")
    step = e.emit(ops.StepSize, "step", x=raw, bias=bias)
    kept = e.state("scan", RowType(sizes=(a.channels, a.state), dtype="f32"))
    fields = {"v": v, "step": step, "k": made["k"], "q": made["q"], "state": kept}
    fields["a_log"] = e.weight(a.a_log, (channel, "Ns"), axes, dtype="f32")
    fields["skip"] = e.weight(a.skip, (channel,), axes, dtype="f32")
    y = str(e.emit(ops.SelectiveScan, "read", "scan_now", **fields)[0])
    z = e.linear("z", h, a.gate, ("Ic", "E"), axes)
    return e.linear("mixed", gated(e, y, z, a.act), a.o, ("E", "Ic"), axes)


def _by_head(
    e: Emitter,
    name: str,
    x: str,
    projection: m.Projection,
    slots: tuple[str, str, str],
    axes: Axes,
) -> str:
    """Emit a product: one matrix for all channels, or one for each part of them.

    ``slots`` are the axis of the result, of what is read, and of a part of that.
    """
    made, read, part = slots
    if axes["Hb"] == 1:
        return e.linear(name, x, projection, (made, read), axes)
    weight = e.weight(projection.weight, ("Hb", part, made), axes)
    bias = e.bias(weight, projection.bias, ("Hb", made), axes)
    return str(e.emit(ops.BlockLinear, name, x=x, weight=weight, bias=bias))
