"""Lines of the kernels of mixers that some forms have and others have not."""

from glmc.backends.triton.forms import Form
from glmc.backends.triton.lines import Lines

Pieces = dict[str, Lines | str]
_ROUNDED = "strength = strength.to(beta.dtype.element_ty).to(tl.float32)"


def serial(form: Form) -> Pieces:
    """Return the lines of the kernel that reads one token after the other."""
    keyed = bool(form["keyed"])
    return {
        **_ready(form, "value = tl.where(token >= begins, value, 0.0)"),
        "unit": _token_unit(form),
        "raw": _token_raw(form, keyed),
        "decay": _decay(form),
        "left": "tl.exp(g)[:, None]" if keyed else "tl.exp(g)",
        "written": ("written = value * moved" if form["steps"] else "written = value",),
        "corrected": _corrected(form) if form["beta"] else ("change = written",),
        "skipped": _SKIPPED if form["skip"] else (),
    }


def _ready(form: Form, masked: str) -> Pieces:
    """Return the lines by which a scan alone, whose decays are ready, differs: they
    have no rate, and what is padding was not made zero by a convolution."""
    if not form["ready"]:
        rate = ("rate = tl.exp(tl.load(a_log + head))",)
        return {"rate": rate, "begins": (), "masked": ()}
    begins = (
        "begins = 0",
        "if start is not None:",
        "    begins = tl.load(start + batch) - tl.load(position)",
    )
    return {"rate": (), "begins": begins, "masked": (masked,)}


def token(form: Form) -> Pieces:
    """Return the lines of the kernel that reads one token, convolved by it."""
    gated = form["order"] == "gate_first"
    square = "read * read" if not gated else "(read * opened) * (read * opened)"
    added = f"total += tl.sum({square})"
    return {
        **serial(form),
        "active": _activated(form, "query", "key"),
        "active_value": _activated(form, "value"),
        "left": "left[:, None]" if form["keyed"] else "left",
        "zero": ("total = 0.0",) if form["norm"] else (),
        "squared": (*(_opened(form) if gated else ()), added) if form["norm"] else (),
        "normed": _normed(form) if form["norm"] else (),
    }


def _activated(form: Form, *names: str) -> Lines:
    fn = form["fn"]
    return [f"{name} = _{fn}({name})" for name in names] if fn else ()


def _token_unit(form: Form) -> Lines:
    if not form["l2"]:
        return ()
    each = "{0} *= tl.rsqrt(tl.sum({0} * {0}) + UNIT_EPS)"
    return tuple(each.format(name) for name in ("query", "key"))


def _token_raw(form: Form, keyed: bool) -> Lines:
    place, bias, mask = "of", "head", ""
    if keyed:
        place, bias = "of * KEY + channel", "head * KEY + channel"
        mask = ", mask=inside, other=0.0"
    if form["ready"]:
        return (f"g = tl.load(g_ + {place}{mask})",)
    added = f"raw += tl.load(dt_bias + {bias}{mask})"
    return (
        f"raw = tl.load(step + {place}{mask}).to(tl.float32)",
        *((added,) if form["dt_bias"] else ()),
    )


def _decay(form: Form, g: str = "g", raw: str = "raw") -> Lines:
    """Make the logarithms of decays, ``g``, of what is projected, ``raw``."""
    if form["ready"]:
        return ()
    if form["bounded"]:
        return (f"{g} = FLOOR * tl.sigmoid(rate * {raw})",)
    if not form["steps"]:
        return (f"{g} = -rate * _moved({raw}, LOW, HIGH)",)
    return (f"moved = _moved({raw}, LOW, HIGH)", f"{g} = -rate * moved")


def _strength(form: Form, load: str) -> Lines:
    """Load how much of a value is corrected, which a scan alone is given ready."""
    raw = f"strength = {load}.to(tl.float32)"
    if form["ready"]:
        return (raw,)
    return (raw, "strength = FACTOR * tl.sigmoid(strength)", _ROUNDED)


def _corrected(form: Form) -> Lines:
    return (
        *_strength(form, "tl.load(beta + of)"),
        "change = written - tl.sum(matrix * key[:, None], axis=0)",
        "change *= strength",
    )


_SKIPPED = (
    "read += tl.load(skip + head) * value",
    "read = read.to(out.dtype.element_ty).to(tl.float32)",
)


def _opened(form: Form) -> Lines:
    """Load what opens the gate of some columns."""
    silu = form["gate"] == "silu"
    return (
        "opened = tl.load(z + spot, mask=there, other=0.0).to(tl.float32)",
        "opened *= tl.sigmoid(opened)" if silu else "opened = tl.sigmoid(opened)",
    )


def _normed(form: Form) -> Lines:
    """Norm and gate what was read, which all of its columns had to be first."""
    gated = form["order"] == "gate_first"
    kind = f"_weighted_{form['weight_in']}"
    lines = (
        "column = base + tl.arange(0, V_BLOCK)",
        "there = column < VALUE",
        "spot = batch * (HEADS * VALUE) + head * VALUE + column",
        "read = tl.load(out + spot, mask=there, other=0.0).to(tl.float32)",
        *_opened(form),
        f"read *= {'opened * scale' if gated else 'scale'}",
        "gain = tl.load(norm + column, mask=there, other=0.0).to(tl.float32)",
        f"read = {kind}(read, gain, dtype).to(tl.float32)",
        *(() if gated else ("read *= opened",)),
        "tl.store(out + spot, read.to(dtype), mask=there)",
    )
    return (
        "tl.debug_barrier()",
        "scale = tl.rsqrt(total / VALUE + EPS)",
        "for base in range(0, SPAN, V_BLOCK):",
        *(f"    {line}" for line in lines),
    )


def scan(form: Form) -> Pieces:
    """Return the lines of the kernel that reads a prompt."""
    keyed = bool(form["keyed"])
    wide = "tl.exp(last[None, :] - total)" if keyed else "tl.exp(last - total)[:, None]"
    masked = "value = tl.where((token >= begins)[:, None], value, 0.0)"
    return {
        **_ready(form, masked),
        "unit": _scan_unit(form, keyed),
        "raw": _scan_raw(form, keyed),
        "decay": (*_decay(form), _REAL[keyed]),
        "products": _by_channel(form) if keyed else _by_head(form),
        "written": (
            "written = value * moved[:, None]" if form["steps"] else "written = value",
        ),
        "corrected": _solved(form) if form["beta"] else ("change = written",),
        "wide_left": "left" if keyed else "left[:, None]",
        "wide_rest": wide,
        "left_over": "tl.exp(last)[:, None]" if keyed else "tl.exp(last)",
        "skipped": ("read += tl.load(skip + head) * value",) if form["skip"] else (),
    }


_REAL = {
    False: "g = tl.where(real, g, 0.0)",
    True: "g = tl.where(both, g, 0.0)",
}


def _scan_unit(form: Form, keyed: bool) -> Lines:
    if not form["l2"]:
        return ()
    lines = []
    for name in ("query", "key"):
        lines.append(f"one = tl.rsqrt(tl.sum({name} * {name}, axis=1) + UNIT_EPS)")
        lines += [f"{name}_one = one"] if keyed else []
        lines.append(f"{name} *= one[:, None]")
    return lines


def _scan_raw(form: Form, keyed: bool) -> Lines:
    if keyed:
        name = "g" if form["ready"] else "raw"
        return _raw_of(name, "channel", "both", "inside", form)
    if form["ready"]:
        return ("g = tl.load(g_ + of, mask=real, other=0.0)",)
    added = ("raw += tl.load(dt_bias + head)",) if form["dt_bias"] else ()
    return ("raw = tl.load(step + of, mask=real, other=0.0).to(tl.float32)", *added)


def _raw_of(name: str, channel: str, mask: str, there: str, form: Form) -> Lines:
    """Load what decays of some channels are made of, for each token of a chunk."""
    place = f"head * KEY + {channel}"
    source = "g_" if form["ready"] else "step"
    added = f"{name} += tl.load(dt_bias + {place}, mask={there}, other=0.0)[None, :]"
    return (
        f"{name} = {source} + of[:, None] * KEY + {channel}[None, :]",
        f"{name} = tl.load({name}, mask={mask}, other=0.0).to(tl.float32)",
        *((added,) if form["dt_bias"] else ()),
    )


def _by_head(form: Form) -> Lines:
    """Make the products of keys with queries, and with keys, that have not decayed."""
    pairs = ('pairs = tl.dot(key.to(dtype), other, input_precision="ieee") * decays',)
    return (
        "between = total[:, None] - total[None, :]",
        "decays = tl.exp(tl.where(seen, between, 0.0))",
        "other = tl.trans(key.to(dtype))",
        'scores = tl.dot(query.to(dtype), other, input_precision="ieee") * decays',
        *(pairs if form["beta"] else ()),
    )


def _by_channel(form: Form) -> Lines:
    """Make the same where each channel decays by itself, PART of them at a time:
    differences before exp, which of a sum alone might be 0 or infinite."""
    unit = [f"{{}} *= {name}_one[:, None]" for name in ("query", "key") if form["l2"]]
    inner = (
        "some = base + tl.arange(0, PART)",
        "those = some < KEY",
        "these = real[:, None] & those[None, :]",
        "from_ = (row * GROUPS + group)[:, None] * KEY + some[None, :]",
        "mine = tl.load(q + from_, mask=these, other=0.0).to(tl.float32)",
        "other = tl.load(k + from_, mask=these, other=0.0).to(tl.float32)",
        *(
            line.format(name)
            for line, name in zip(unit, ("mine", "other"), strict=False)
        ),
        *_raw_of("sums" if form["ready"] else "few", "some", "these", "those", form),
        *_decay(form, "sums", "few"),
        "sums = tl.cumsum(tl.where(these, sums, 0.0), axis=0)",
        "between = sums[:, None, :] - sums[None, :, :]",
        "between = tl.where(seen[:, :, None], between, 0.0)",
        "decayed = tl.exp(between) * other[None, :, :]",
        "scores += tl.sum(mine[:, None, :] * decayed, axis=2)",
        *(
            ("pairs += tl.sum(other[:, None, :] * decayed, axis=2)",)
            if form["beta"]
            else ()
        ),
    )
    zeros = "tl.zeros([CHUNK, CHUNK], tl.float32)"
    return (
        f"scores = {zeros}",
        *((f"pairs = {zeros}",) if form["beta"] else ()),
        "for base in range(0, KEY, PART):",
        *(f"    {line}" for line in inner),
    )


def _solved(form: Form) -> Lines:
    """Solve the triangular system of what a chunk writes, row by row."""
    left = "left" if form["keyed"] else "left[:, None]"
    return (
        *_strength(form, "tl.load(beta + of, mask=real, other=0.0)"),
        f"known = (key * {left}).to(dtype)",
        'known = tl.dot(known, matrix.to(dtype), input_precision="ieee")',
        "change = strength[:, None] * (written - known)",
        "pairs *= strength[:, None]",
        "for at_row in range(1, CHUNK):",
        "    now = (place == at_row)[:, None]",
        "    before = place[:, None] < at_row",
        "    mine = tl.sum(tl.where(now, pairs, 0.0), axis=0)",
        "    less = tl.sum(tl.where(before, mine[:, None] * change, 0.0), axis=0)",
        "    change -= tl.where(now, less[None, :], 0.0)",
    )
