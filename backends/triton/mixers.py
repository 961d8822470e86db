"""Kernels of short convolutions, of scans with all around them, and of their norms."""

import json
from collections.abc import Iterator

from glmc.backends.triton import mixer_pieces as pieces
from glmc.backends.triton import tiles
from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import (
    Argument,
    Launch,
    constant,
    count,
    pointer,
    tile,
)
from glmc.backends.triton.lines import Lines
from glmc.backends.triton.model import Model, Part, part
from glmc.backends.triton.uses import OpUse

_POSITION = "slots that were filled before this call"
_START = "first real slot of a row that is padded on the left"
_RING = "the last WIDTH tokens, that of slot s in column s % WIDTH"


# Short convolutions.
def conv_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernels of a short convolution, and its launcher."""
    yield from _convolving(form)
    bias = ", bias" if form["bias"] else ""
    yield part(
        "short_conv",
        head=model.head(form.op, model.launcher(form)),
        made=(f"out = {_convolver(form)}(x, weight, state{bias})",),
    )


def _convolver(form: Form) -> str:
    """Name the function that launches a convolution with its activation."""
    return f"_convolve_{form['fn']}" if form["fn"] else "_convolve"


def _convolving(form: Form) -> Iterator[Part]:
    """Yield the kernels of a convolution, and the function that launches them."""
    name = _convolver(form)
    if form["fn"]:
        yield part(f"act_{form.text('fn')}")
    rows = [f"{json.dumps(dict(found))}," for found in tiles.SHORT_CONV]
    yield part("short_conv_tiles", tiles=rows)
    kernel = f"short_conv{name.removeprefix('_convolve')}_kernel"
    yield part(
        "short_conv_rows", name=name, launch=_convolution(kernel), active=_active(form)
    )
    yield part("short_conv_keep", launch=_KEEP)
    yield part("short_conv_call", name=name, launch=_convolution(kernel), keep=_KEEP)


def _active(form: Form) -> Lines:
    return (f"total = _{form.text('fn')}(total)",) if form["fn"] else ()


_CHANNELS = (
    pointer("kept", "[B, C, WIDTH]", _RING, source="state.rows"),
    pointer("position", "[1]", _POSITION, source="state.position"),
)


def _convolution(name: str) -> Launch:
    return Launch(
        name,
        '(triton.cdiv(T, tile["TOKENS"]), triton.cdiv(C, tile["COLS"]), B)',
        (
            pointer("x", "[B, T, C]"),
            pointer("weight", "[C, WIDTH]", "the last column for the newest token"),
            pointer("bias", "[C] or None"),
            *_CHANNELS,
            pointer("start", "[B] or None", _START, source="start"),
            pointer("out", "[B, T, C]"),
            count("T"),
            constant("C"),
            constant("WIDTH", "W"),
            constant("ONE", "T == 1", "the call has one token"),
            *tile("TOKENS", "COLS"),
        ),
        ("**tile",),
    )


_KEEP = Launch(
    "short_conv_keep_kernel",
    f"(triton.cdiv(C, {tiles.KEPT_COLS}), B)",
    (
        pointer("x", "[B, T, C]"),
        *_CHANNELS,
        pointer("start", "[B] or None", _START, source="start"),
        count("T"),
        constant("C"),
        constant("WIDTH", "W"),
        constant("COLS", str(tiles.KEPT_COLS)),
    ),
)


# Gated norms.
_OPENED = {
    "silu": "opened * tl.sigmoid(opened)",
    "sigmoid": "tl.sigmoid(opened)",
}


_CENTRED = (
    "mean = tl.sum(tl.where(inside, value, 0.0)) / WIDTH",
    "value = tl.where(inside, value - mean, 0.0)",
)


def norm_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of a gated norm, and its launcher."""
    gate, order, kind = (form.text(n) for n in ("fn", "order", "weight_in"))
    more = tuple(word for word in ("whole", "centred") if form[word])
    yield from _norming(gate, order, kind, *more)
    name = _normer(gate, order, kind, *more)
    groups = "groups" if form["parts"] else "1"
    yield part(
        "gated_norm",
        head=model.head(form.op, model.launcher(form)),
        returned=(f"return {name}(x, z, weight, eps, {groups})",),
    )


def _normer(*words: str) -> str:
    """Name the function that launches a gated norm."""
    return f"_norm_{'_'.join(words)}"


def _norming(gate: str, order: str, kind: str, *more: str) -> Iterator[Part]:
    """Yield the kernel of a gated norm, and the function that launches it; ``more``
    says if its weight is of the ``whole`` row, and if it is ``centred``."""
    first, name = order == "gate_first", _normer(gate, order, kind, *more)
    whole = "whole" in more
    yield part("rows_warps")
    yield part(f"weighted_{kind}")
    yield part(
        "gated_norm_rows",
        name=name,
        opened=_OPENED[gate],
        before=("value *= opened",) if first else (),
        centred=_CENTRED if "centred" in more else (),
        after=() if first else ("value *= opened",),
        weighted=f"_weighted_{kind}",
        place="group * WIDTH + column" if whole else "column",
        launch=Launch(
            f"{name.removeprefix('_')}_kernel",
            "(M, groups)",
            (
                pointer("x", "[M, GROUPS, WIDTH]"),
                pointer("z", "[M, GROUPS, WIDTH]", "what opens the gate"),
                pointer("weight", "[GROUPS, WIDTH]" if whole else "[WIDTH]"),
                pointer("out", "[M, GROUPS, WIDTH]"),
                constant("GROUPS", "groups"),
                constant("WIDTH", "width"),
                constant("EPS", "eps", "added to the mean square"),
                constant("BLOCK", "block", "WIDTH rounded up to a power of two"),
            ),
            ("num_warps=_warps(block)",),
        ),
    )


# Mixers.
def unfit(use: OpUse) -> str | None:
    """Give the reason why the kernels of a mixer do not take a use, or None."""
    k_dim = use.size("state", 1)
    if k_dim > tiles.WIDEST_KEY:
        return (
            f"{use.name}: a program holds keys of {tiles.WIDEST_KEY} channels at most,"
            f" not of {k_dim}"
        )
    return None


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernels of a mixer, for a token and for a prompt, and its launcher."""
    name = model.name(form).removeprefix("mix")
    table = "MIX_BY_CHANNEL" if form["keyed"] else "MIX"
    yield from _convolving(form)
    returned, span = ["return out"], 'span = tile["V_BLOCK"]'
    if form["norm"]:
        gate, order, kind = (form.text(n) for n in ("gate", "order", "weight_in"))
        yield from _norming(gate, order, kind)
        returned = [f"return {_normer(gate, order, kind)}(out, z, norm, eps, H)"]
        span = 'span = triton.cdiv(V, tile["V_BLOCK"]) * tile["V_BLOCK"]'
    if not form["bounded"]:
        yield part("mix_steps")
    yield part("mix_tiles", name=table, tiles=_tiles(form, model))
    token = _token(form, f"mix_token{name}_kernel")
    scan = _scan(form, f"mix_scan{name}_kernel", chunks=True)
    yield part("mix_tap")
    yield part(
        "mix_token",
        launch=token,
        **pieces.token(form),
    )
    serial = _scan(form, f"mix_serial{name}_kernel", chunks=False)
    yield part("mix_serial", launch=serial, **pieces.serial(form))
    yield part("mix_scan", launch=scan, **pieces.scan(form))
    beside = [n for n in ("beta", "norm") if form[n]]
    yield part(
        "mix",
        head=model.head(form.op, model.launcher(form)),
        token=token,
        scan=scan,
        serial=serial,
        convolve=_convolver(form),
        tiles=table,
        dense=[f"{n} = {n}.contiguous()" for n in map(_READ.__getitem__, beside)],
        span=(span,),
        returned=returned,
        **{f"bias_{n}": _bias(form, n) for n in "qkv"},
    )


_READ = {"beta": "beta", "norm": "z"}


def scan_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernels of a scan alone, and its launcher."""
    name = model.name(form)
    table = "SCAN_BY_CHANNEL" if form["keyed"] else "SCAN"
    table += "_CORRECTED" if form["beta"] else ""
    yield part("mix_tiles", name=table, tiles=_tiles(form, model))
    serial = _scan(form, f"{name}_serial_kernel", chunks=False)
    scan = _scan(form, f"{name}_chunks_kernel", chunks=True)
    yield part("mix_serial", launch=serial, **pieces.serial(form))
    yield part("mix_scan", launch=scan, **pieces.scan(form))
    yield part(
        "scan",
        head=model.head(form.op, model.launcher(form)),
        scan=scan,
        serial=serial,
        tiles=table,
        dense=("beta = beta.contiguous()",) if form["beta"] else (),
    )


def _bias(form: Form, name: str) -> str:
    return f", bias_{name}" if form[f"bias_{name}"] else ""


def _tiles(form: Form, model: Model) -> Lines:
    """Return the rows of the table of tiles, for the largest state of a model."""
    sizes = [use.sizes("state")[1:] for use in model.of(form.op)]
    k_dim, v_dim = (max(size) for size in zip(*sizes, strict=True))
    rows = []
    for size in tiles.ELEMENT_SIZES:
        scan = tiles.mix_scan(size, k_dim, v_dim, bool(form["keyed"]))
        if form["ready"] and not form["beta"] and "CHUNK" in scan:
            # It holds less than a mixer's, and 8 warps have few registers each.
            scan = {**scan, "num_warps": 4}
        pair = (tiles.mix_token(k_dim, v_dim), scan)
        rows += [f"{size}: (", *(f"    {json.dumps(found)}," for found in pair), "),"]
    return rows


_SIZES = (
    constant("HEADS", "H"),
    constant("GROUPS", "G", "keys and queries that heads share"),
    constant("KEY", "K", "channels of a key"),
    constant("VALUE", "V", "channels of a value"),
    constant("K_BLOCK", "max(16, triton.next_power_of_2(K))"),
)


def _operands(form: Form) -> Iterator[Argument]:
    """Declare what a decay is made of, and what else heads have a number for."""
    keyed = form["keyed"]
    shape = "HEADS, KEY" if keyed else "HEADS"
    if form["ready"]:
        yield pointer("g_", f"[B, T, {shape}]", "logarithms of decays", source="g")
        if form["beta"]:
            yield pointer("beta", "[B, T, HEADS]", "how much of a value is corrected")
        return
    yield pointer("step", f"[B, T, {shape}]", "what decays are made of")
    yield pointer("a_log", "[HEADS]")
    if form["dt_bias"]:
        yield pointer("dt_bias", f"[{shape}]")
    if form["beta"]:
        yield pointer("beta", "[B, T, HEADS]", "how much of a value is corrected")
    if form["skip"]:
        yield pointer("skip", "[HEADS]", "how much of a value is added to what is read")


def _numbers(form: Form) -> Iterator[Argument]:
    yield constant("SCALE", "scale")
    if form["l2"]:
        yield constant("UNIT_EPS", "l2_eps", "added to the squares of keys and queries")
    if form["ready"]:
        return
    if form["beta"]:
        yield constant("FACTOR", "factor")
    if form["bounded"]:
        yield constant("FLOOR", "floor")
    else:
        yield constant("LOW", "low" if form["lowest"] else "0.0")
        yield constant("HIGH", "high" if form["capped"] else "None")


_BEGINS = (
    pointer("position", "[1]", _POSITION, source="state.position"),
    pointer("start", "[B] or None", _START, source="start"),
)
_STATE = pointer("state", "[B, HEADS, KEY, VALUE]", source="state.rows")


def _token(form: Form, name: str) -> Launch:
    weights = [pointer(f"conv_{n}", "[C, WIDTH]") for n in "qkv"]
    biases = [
        pointer(
            f"bias_{n}",
            "[C] or None",
            source=f"bias_{n}" if form[f"bias_{n}"] else "None",
        )
        for n in "qkv"
    ]
    kept = [
        pointer(f"kept_{n}", "[B, C, WIDTH]", _RING, source=f"kept_{n}.rows")
        for n in "qkv"
    ]
    gated = (
        pointer("z", "[B, 1, HEADS, VALUE]", "what opens the gate"),
        pointer("norm", "[VALUE]"),
    )
    return Launch(
        name,
        "(H, B, triton.cdiv(V, span))",
        (
            pointer("q", "[B, 1, GROUPS, KEY]"),
            pointer("k", "[B, 1, GROUPS, KEY]"),
            pointer("v", "[B, 1, HEADS, VALUE]"),
            *weights,
            *biases,
            *kept,
            pointer("position", "[1]", _POSITION, source="state.position"),
            *_operands(form),
            *(gated if form["norm"] else ()),
            _STATE,
            pointer("out", "[B, 1, HEADS, VALUE]"),
            *_SIZES,
            constant("WIDTH", "W"),
            *_numbers(form),
            *([constant("EPS", "eps")] if form["norm"] else []),
            constant("SPAN", "span", "columns that a program takes"),
            *tile("V_BLOCK"),
        ),
        ("**tile",),
    )


def _scan(form: Form, name: str, *, chunks: bool) -> Launch:
    """Make the launch that reads a prompt, in chunks or token by token."""
    shape = ["CHUNK", "V_BLOCK", *(["PART"] if form["keyed"] else [])]
    return Launch(
        name,
        '(B * H, triton.cdiv(V, tile["V_BLOCK"]))',
        (
            pointer("q", "[B, T, GROUPS, KEY]", "convolved, as k and v"),
            pointer("k", "[B, T, GROUPS, KEY]"),
            pointer("v", "[B, T, HEADS, VALUE]"),
            *_operands(form),
            _STATE,
            *(_BEGINS if form["ready"] else ()),
            pointer("out", "[B, T, HEADS, VALUE]"),
            count("T"),
            *_SIZES,
            *_numbers(form),
            *tile(*(shape if chunks else ["V_BLOCK"])),
        ),
        ("**tile",),
    )
