"""Rotary embedding as an op of its own, and the pairing of channels that all kernels
share."""

from collections.abc import Iterator, Mapping

from glmc.backends.triton import tiles
from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import Launch, constant, count, pointer, stride
from glmc.backends.triton.model import Model, Part, part

_PAIRS: Mapping[str, tuple[str, ...]] = {
    "half": (
        "pair = channel % (ROTARY // 2)",
        "first = channel < ROTARY // 2",
        "other = (channel + ROTARY // 2) % ROTARY",
    ),
    "interleaved": (
        "pair = channel // 2",
        "first = channel % 2 == 0",
        "other = channel ^ 1",
    ),
}
_SECTIONED = (
    "# Each of the {} sections of the rotary channels turns on its own.",
    "SECTION: tl.constexpr = ROTARY // {}",
    "section = channel // SECTION",
    "within = channel % SECTION",
    "pair = section * (SECTION // 2) + within % (SECTION // 2)",
    "first = within < SECTION // 2",
    "other = section * SECTION + (within + SECTION // 2) % SECTION",
)


def pairs(form: Form) -> list[str]:
    """Write the lines that compute, for each channel, the index of its angle, whether
    it is the first of its pair, and the other channel. ``channel`` counts from the
    first that is rotated."""
    lines = _PAIRS[form.text("style")]
    if form["style"] == "half" and form["sections"] != 1:
        lines = _SECTIONED
    return [line.format(form["sections"]) for line in lines]


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of one form, and its launcher."""
    ahead, behind = (
        ("partner", "-partner") if form["reverse"] else ("-partner", "partner")
    )
    table = ("[B, T, ROTARY / 2]", "of the angles by which channels turn in pairs")
    yield part("rows_dense")
    yield part(
        "rope",
        pairs=pairs(form),
        turned=f"tl.where(first, {ahead}, {behind})",
        head=model.head(form.op, model.launcher(form)),
        launch=Launch(
            f"{model.name(form)}_kernel",
            "(B * T, H)",
            (
                pointer(
                    "x", "[B, T, HEADS, D]", "lies in strides x_batch, x_token, x_head"
                ),
                *(
                    pointer(n, *table, source=f"{n}.contiguous()")
                    for n in ("cos", "sin")
                ),
                pointer("out", "[B, T, HEADS, D]"),
                stride("x_batch", "x.stride(0)"),
                stride("x_token", "x.stride(1)"),
                stride("x_head", "x.stride(2)"),
                count("T"),
                constant("HEADS", "H"),
                constant("D"),
                constant("FIRST", "first", "channels that pass before those that turn"),
                constant("ROTARY", "2 * cos.shape[-1]"),
                constant("BLOCK", "triton.next_power_of_2(D)"),
            ),
            (f"num_warps={tiles.PROLOGUE_WARPS}",),
        ),
    )
