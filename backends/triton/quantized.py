"""The product of codes with many rows, which launchers of products call."""

import json
import math
from collections.abc import Iterator

from glmc.backends.triton import tiles
from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import Launch, constant, count, pointer, stride, tile
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
    kind = "groups" if form["groups"] else "codes"
    yield from (part("rows"), part("rows_dense"), part("quantized_codes"))
    table = [f"{size}: {json.dumps(tile)}," for size, tile in tiles.GEMM.items()]
    yield part("quantized_tiles", gemm=table)
    yield part(
        "quantized_gemm",
        launch=_launch(form, model),
        launcher=model.launcher(form),
        body=f"kernels/quantized_gemm_{kind}.py.j2",
        point=_POINT if form["zeros"] else ("point = 3 << (BITS - 1)",),
        bias=_BIAS if form["bias"] else (),
    )


_POINT = (
    "point = tl.load(zeros + share, mask=held, other=0).to(tl.float32)",
    "point += 3 << (BITS - 1)",
)
_BIAS: Lines = (
    "more = tl.load(bias + output, mask=output < OUT, other=0.0).to(tl.float32)",
    "result += more[None, :]",
)


def _launch(form: Form, model: Model) -> Launch:
    shape = "[OUT, IN / GROUP]" if form["groups"] else "[OUT]"
    meaning = "for GROUP columns each" if form["groups"] else "of a row of codes"
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
            pointer("scale", shape, meaning),
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
