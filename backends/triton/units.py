"""Kernels of recurrent units: products of parts, the token before, steady decays."""

from collections.abc import Iterator

from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import Launch, constant, count, pointer
from glmc.backends.triton.model import Model, Part, part

_START = "first real slot of a row that is padded on the left"


def block_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel that multiplies parts of few rows, and its launcher."""
    name = model.name(form)
    bias = bool(form["bias"])
    added = (
        "more = tl.load(bias + block * WIDTH + column, mask=there, other=0.0)",
        "total += more.to(tl.float32)",
    )
    launch = Launch(
        f"{name}_kernel",
        "(triton.cdiv(width, 16), n, M)",
        (
            pointer("x", "[M, PARTS, READ]", source="rows"),
            pointer("weight", "[PARTS, READ, WIDTH]"),
            *([pointer("bias", "[PARTS, WIDTH]")] if bias else []),
            pointer("out", "[M, PARTS, WIDTH]"),
            constant("PARTS", "n"),
            constant("READ", "read", "channels of a part of x"),
            constant("WIDTH", "width"),
            constant(
                "STEP", "min(256, triton.next_power_of_2(read))", "rows at a time"
            ),
            constant("COLS", "16"),
        ),
        ("num_warps=4",),
    )
    yield part(
        "block_linear",
        head=model.head(form.op, model.launcher(form)),
        added=added if bias else (),
        more=("y = y + bias",) if bias else (),
        launch=launch,
    )


def shift_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel that gives the token before each, and its launcher."""
    launch = Launch(
        f"{model.name(form)}_kernel",
        "(triton.cdiv(C, 128), triton.cdiv(T, tokens), B)",
        (
            pointer("x", "[B, T, C]"),
            pointer("kept", "[B, C]", "the last token", source="state.rows"),
            pointer("position", "[1]", "slots filled before", source="state.position"),
            pointer("start", "[B] or None", _START, source="start"),
            pointer("out", "[B, T, C]"),
            count("T"),
            constant("C"),
            constant("TOKENS", "tokens", "that a program takes"),
            constant("COLS", "128"),
        ),
    )
    head = model.head(form.op, model.launcher(form))
    yield part("token_shift", head=head, launch=launch)


def decay_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of decays that no token changes, and its launcher."""
    factors = bool(form["factors"])
    launch = Launch(
        f"{model.name(form)}_kernel",
        "(M,)",
        (
            *([pointer("factors", "[1, 1, n]")] if factors else []),
            pointer("out", "[M, HEADS]"),
            constant("HEADS", "heads"),
            constant("REACH", "reach"),
            constant("SCALE", "scale"),
            *([constant("AT", "at", "which of the factors")] if factors else []),
            constant("BLOCK", "triton.next_power_of_2(heads)"),
        ),
    )
    yield part(
        "steady_decay",
        head=model.head(form.op, model.launcher(form)),
        scaled=("g *= tl.load(factors + AT)",) if factors else (),
        launch=launch,
    )
