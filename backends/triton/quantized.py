"""The product of codes with many rows, which launchers of products call."""

import json
import math
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
from glmc.backends.triton.uses import OpUse


def unfit(use: OpUse) -> str | None:
    """Give the reason why the kernels of a product do not take the codes that it
    multiplies by, or None.

    A tile of columns has its codes in the same words: it lies within one group of equal
    scale, or its groups are whole planes of the words.
    """
    if "bits" not in use.attrs:
        return None
    bits = use.whole("bits")
    width = use.size("weight") * 8 // bits
    if width * bits % 32:
        return f"{use.name}: rows of {width} codes do not fill words of 32 bits"
    groups = use.size("scale") if len(use.shapes["scale"]) > 1 else 1
    group, run = width // groups, math.gcd(width * bits // 32, 16)
    columns = run * 32 // bits
    if groups > 1 and (group % run or (columns % group and group % columns)):
        return (
            f"{use.name}: groups of {group} columns do not fit the tiles of {columns}"
            f" that kernels read from rows of {width}"
        )
    return None


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of one form, and its launcher."""
    yield from (part("rows"), part("rows_dense"))
    yield from words(form)
    table = [f"{size}: {json.dumps(tile)}," for size, tile in tiles.GEMM.items()]
    yield part("quantized_tiles", gemm=table)
    yield part(
        "quantized_gemm",
        launch=_launch(form, model),
        head=model.head(form.op, model.launcher(form)),
        body=f"kernels/quantized_gemm_{loop(form)}.py.j2",
        planes=planes(form),
        point=_POINT if form["zeros"] else ("point = 3 << (BITS - 1)",),
        gain=gain(form, "scale + share", "held"),
        result=_FACTOR[form["divided"] is True] if form["floats"] == "nvfp4" else _SUM,
        bias=_BIAS if form["bias"] else (),
    )


def loop(form: Form) -> str:
    """Name the loop over codes of a kind that have a scale per row, or per group."""
    kind = "small" if form["floats"] else "codes"
    if form["groups"]:
        return "small_groups" if form["floats"] else "groups"
    return kind


def words(form: Form, *, bytes_of_scales: bool = False) -> Iterator[Part]:
    """Yield the functions that read codes from words, and scales from bytes; those
    always with ``bytes_of_scales``, and else where scales are of groups."""
    yield part("quantized_words")
    yield part("quantized_floats" if form["floats"] else "quantized_codes")
    if form["floats"] in _SCALES and (form["groups"] or bytes_of_scales):
        yield part(f"quantized_scale_{form['floats']}")


_SCALES = ("nvfp4", "mx")
"""Kinds of floats whose scales are bytes."""


def planes(form: Form) -> Lines:
    """Emit the number of codes in a word, and by what small floats are too small."""
    lift = "LIFT: tl.constexpr = 16384.0 if BITS == 4 else 256.0"
    return ("PLANES: tl.constexpr = 32 // BITS", *([lift] if form["floats"] else []))


def gain(form: Form, place: str, mask: str) -> Lines:
    """Emit the load of what groups of small floats are multiplied by."""
    if form["floats"] in _SCALES:
        octets = f"octets = tl.load({place}, mask={mask}, other=0)"
        return (octets, f"gain = _scale_{form['floats']}(octets) * LIFT")
    return (f"gain = tl.load({place}, mask={mask}, other=0.0) * LIFT",)


def plain_gain(place: str, mask: str = "held") -> Lines:
    """Emit the load of what groups of integers are multiplied by."""
    return (f"gain = tl.load({place}, mask={mask}, other=0.0).to(tl.float32)",)


def scales(form: Form, name: str) -> Iterator[Argument]:
    """Declare the scales of codes, and the factors of rows."""
    shape = "[OUT, IN / GROUP]" if form["groups"] else "[OUT]"
    meaning = "for GROUP columns each" if form["groups"] else "of a row of codes"
    # Triton knows float8 on some GPUs only, and bytes on all.
    source = "scale.view(torch.uint8)" if form["floats"] == "nvfp4" else "scale"
    yield pointer(name, shape, meaning, source=source)
    if form["floats"] == "nvfp4":
        does = "divides" if form["divided"] else "multiplies"
        yield pointer("factor", "[OUT]", f"what {does} a row's sum")


_SUM = ("result = total",)
_FACTOR = {
    divides: (
        "of_row = tl.load(factor + output, mask=output < OUT, other=1.0)",
        f"result = total {'/' if divides else '*'} of_row[None, :]",
    )
    for divides in (False, True)
}


_POINT = (
    "point = tl.load(zeros + share, mask=held, other=0).to(tl.float32)",
    "point += 3 << (BITS - 1)",
)
_BIAS: Lines = (
    "more = tl.load(bias + output, mask=output < OUT, other=0.0).to(tl.float32)",
    "result += more[None, :]",
)


def _launch(form: Form, model: Model) -> Launch:
    parts = "max(1, RUN * 32 // bits * scale.shape[1] // IN)"
    grouped = (
        constant("GROUP", "IN // scale.shape[1]"),
        constant("PARTS", parts, "groups that a tile of RUN * PLANES columns lies in"),
    )
    taken = "for each scale what is taken off the codes"
    return Launch(
        f"{model.name(form)}_kernel",
        '(triton.cdiv(M, tile["TOKENS"]), triton.cdiv(OUT, tile["OUTPUTS"]))',
        (
            pointer(
                "x", "[M, IN]", "rows that lie x_row elements apart", source="rows"
            ),
            pointer(
                "codes",
                "[OUT, IN / PLANES]",
                "in words of int32",
                source="weight.view(torch.int32)",
            ),
            *scales(form, "scale"),
            *([pointer("zeros", "", taken)] if form["zeros"] else []),
            *([pointer("bias", "[OUT]")] if form["bias"] else []),
            pointer("out", "[M, OUT]"),
            stride("x_row", "rows.stride(0)"),
            count("M"),
            constant("IN"),
            constant("OUT"),
            constant("BITS", "bits", "of a code"),
            constant("RUN"),
            *(grouped if form["groups"] else ()),
            *tile("TOKENS", "OUTPUTS", "WORDS"),
        ),
        ("**tile",),
    )
