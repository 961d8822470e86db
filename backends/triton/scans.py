"""Kernels of scans in which each channel goes by itself: what it keeps is a few
numbers."""

import json
from collections.abc import Iterator

from glmc.backends.triton import tiles
from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import (
    Argument,
    Launch,
    constant,
    count,
    pointer,
    stride,
    tile,
)
from glmc.backends.triton.lines import Lines
from glmc.backends.triton.model import Model, Part, part

_POSITION = pointer(
    "position", "[1]", "slots that were filled before", source="state.position"
)
_START = pointer(
    "start", "[B] or None", "first real slot of a row that is padded", source="start"
)
_OPENED = pointer("opened", "[B, T, C]", "what the result is multiplied by")
_TILE = (*tile("CHUNK", "COLS"),)


def _table(name: str, what: str, pair: tuple[tiles.Tile, tiles.Tile]) -> Part:
    rows = [f"{json.dumps(dict(found))}," for found in pair]
    return part("scan_tiles", name=name, what=what, tiles=rows)


def _opening(
    form: Form, factor: str = "opening"
) -> tuple[list[Argument], Lines, Lines]:
    """Return the argument, the launcher's line and the kernel's lines of a gate."""
    if not form["opened"]:
        return [], (), ()
    load = "opening = tl.load(opened + at, mask=both, other=0.0).to(tl.float32)"
    lines = (
        load,
        "read = read.to(out.dtype.element_ty).to(tl.float32)",
        f"read *= {factor}",
    )
    return [_OPENED], ("opened = opened.contiguous()",), lines


def selective_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of a scan of channels that share keys, and its launcher."""
    gate, dense, opened = _opening(form)
    load = "bent = tl.load(bias + column, mask=there, other=0.0)"
    yield _table("SELECTIVE", "scans of channels with keys", tiles.SELECTIVE)
    yield from map(part, ("rows", "rows_dense", "scan_linear", "mix_steps"))
    yield part(
        "selective_scan",
        head=model.head(form.op, model.launcher(form)),
        dense=dense,
        opened=opened,
        bias=(load,) if form["bias"] else (),
        moved=(
            ("moved = _moved(moved + bent[None, :], 0.0, None)",)
            if form["bias"]
            else ()
        ),
        launch=_selective(form, f"{model.name(form)}_kernel", gate),
    )


def _selective(form: Form, name: str, gate: list[Argument]) -> Launch:
    bias = pointer("bias", "[C]", "added to steps before their softplus")
    return Launch(
        name,
        '(triton.cdiv(C // G, tile["COLS"]), G, B)',
        (
            pointer("v", "[B, T, C]"),
            pointer("step", "[B, T, C]", "how far a token moves a channel on"),
            pointer("k", "[M, GROUPS, N]", "rows that lie k_row elements apart"),
            pointer("q", "[M, GROUPS, N]", "rows that lie q_row elements apart"),
            pointer("a_log", "[C, N]"),
            pointer("skip", "[C]", "how much of a value is added to what is read"),
            *([bias] if form["bias"] else []),
            *gate,
            pointer("state", "[B, C, N]", source="state.rows"),
            _POSITION,
            _START,
            pointer("out", "[B, T, C]"),
            stride("k_row", "k.stride(0)"),
            stride("q_row", "q.stride(0)"),
            count("T"),
            constant("C"),
            constant("GROUPS", "G", "equal parts of the channels, with keys each"),
            constant("N", meaning="numbers that a channel keeps"),
            constant("N_BLOCK", "triton.next_power_of_2(N)"),
            *_TILE,
        ),
        ("**tile",),
    )


def lru_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of a gated linear recurrence, and its launcher."""
    gate, dense, opened = _opening(form)
    yield _table("LRU", "gated linear recurrences", tiles.CHANNELS)
    yield from map(part, ("scan_linear", "scan_missing", "mix_steps"))
    yield part(
        "lru_scan",
        head=model.head(form.op, model.launcher(form)),
        dense=dense,
        opened=opened,
        launch=_by_channel(
            f"{model.name(form)}_kernel",
            pointer("x", "[B, T, C]"),
            pointer("i", "[B, T, C]", "opens what is written"),
            pointer("r", "[B, T, C]", "opens what decays"),
            pointer("rate", "[C]"),
            *gate,
            pointer("state", "[B, C]", source="state.rows"),
            sizes=(constant("POWER", "power"),),
        ),
    )


def wkv_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of a mean that favours near tokens, and its launcher."""
    gate, dense, opened = _opening(form, "tl.sigmoid(opening)")
    yield _table("WKV", "means that favour near tokens", tiles.CHANNELS)
    yield part("scan_means")
    yield part(
        "wkv_scan",
        head=model.head(form.op, model.launcher(form)),
        dense=dense,
        opened=opened,
        launch=_by_channel(
            f"{model.name(form)}_kernel",
            pointer("k", "[B, T, C]"),
            pointer("v", "[B, T, C]"),
            pointer("rate", "[C]", "logarithms of how fast weights fall"),
            pointer("first", "[C]", "added to the exponent of a token's own"),
            *gate,
            pointer("state", "[B, 3, C]", source="state.rows"),
        ),
    )


def _by_channel(
    name: str, *operands: Argument, sizes: tuple[Argument, ...] = ()
) -> Launch:
    """Return the launch of a scan whose programs take some channels of a row each."""
    out = pointer("out", "[B, T, C]")
    fixed = (count("T"), constant("C"), *sizes, *_TILE)
    arguments = (*operands, _POSITION, _START, out, *fixed)
    return Launch(name, '(triton.cdiv(C, tile["COLS"]), B)', arguments, ("**tile",))
