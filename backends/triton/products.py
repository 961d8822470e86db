"""Products of few rows: the prologue of x, the weights, the epilogue."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from glmc.backends.triton import (
    forms,
    norms,
    pointwise,
    product_body,
    product_tables,
    quantized,
    tiles,
)
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
from glmc.backends.triton.lines import Line, Lines, call
from glmc.backends.triton.model import Model, Part, part
from glmc.backends.triton.uses import OpUse

OPS = (
    "linear",
    "quantized_linear",
    "linear_add",
    "linear_act",
    "rms_norm_linear",
    "layer_norm_linear",
)


def with_parts(uses: Iterable[OpUse]) -> Iterator[OpUse]:
    """Yield the uses, and after each the ops that its launcher calls: a product's for
    many rows."""
    for use in uses:
        yield use
        if use.name in product_body.NORMING:
            yield _norm(use)
        if use.name in norms.REDUCED:
            yield replace(use, name=norms.REDUCED[use.name])
        if use.name in OPS and "fn" in use.attrs:
            yield _activation(use)
        if use.name in OPS and "bits" in use.attrs:
            yield _gemm(use)


def _norm(use: OpUse) -> OpUse:
    names = ("eps", "weight_in", "unit_offset")
    attrs = {name: use.attrs[name] for name in names if name in use.attrs}
    bias = frozenset({"bias"} if "norm_bias" in use.operands else ())
    shapes = {"weight": use.shapes["norm"]} if "norm" in use.shapes else {}
    return OpUse(product_body.NORMING[use.name], attrs, bias, shapes)


def _activation(use: OpUse) -> OpUse:
    name, operand = ("act_mul", "gate_up") if use.flag("gated") else ("activation", "x")
    shapes = {operand: use.shapes["weight"][:1]} if "weight" in use.shapes else {}
    return OpUse(name, {"fn": use.attrs["fn"]}, shapes=shapes)


def _gemm(use: OpUse) -> OpUse:
    names = ("weight", "scale", "zeros", "factor")
    shapes = {name: use.shapes[name] for name in names if name in use.shapes}
    operands = use.operands & {"zeros", "factor", "bias"}
    told = ("bits", "floats", "divided")
    attrs = {name: use.attrs[name] for name in told if name in use.attrs}
    return OpUse("quantized_gemm", attrs, operands, shapes)


def _doc(form: Form) -> str:
    """Describe what the launcher of a form computes."""
    made = "h Wᵀ" if form.op in product_body.NORMING else "x Wᵀ"
    made += " + bias" if form["bias"] else ""
    where = ", h = norm(x)" if form.op in product_body.NORMING else ""
    weight = "codes" if product_body.coded(form) else "floats"
    if form["gated"]:
        return f"fn(gate) · up of {made} = gate | up{where}; W [OUT, IN] is {weight}."
    if form["fn"]:
        made = f"fn({made})"
    if form.op == "linear_add":
        made = f"residual + ({made})" if form["bias"] else f"residual + {made}"
    return f"{made}{where}; W [OUT, IN] is {weight}."


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernels of one form, and its launcher; before them the functions they
    share."""
    yield from (part("rows"), part("rows_dense"))
    yield from product_tables.tables(model, OPS)
    yield from _steps(form)
    named, codes = model.name(form), product_body.coded(form)
    kind = quantized.loop(form) if codes else "floats"
    shown: dict[str, object] = {
        "name": named,
        "value": product_body.value(form),
        "planes": quantized.planes(form) if codes else (),
        "rows": product_body.rows(form),
    }
    gemv, skinny = _launch(form, named, False), _launch(form, named, True)
    yield part(
        "product_gemv",
        launch=gemv,
        body=f"kernels/product_gemv_{kind}.py.j2",
        under_way=product_body.under_way(form),
        measure=product_body.measure(form, "SPAN"),
        finish=product_body.finish(form, "1"),
        group=product_body.group(form, alone=True),
        **product_body.zeros(form),
        **shown,
    )
    yield part(
        "product_skinny",
        launch=skinny,
        body=f"kernels/product_skinny_{kind}.py.j2",
        width="IN // PLANES" if codes else "IN",
        measure=product_body.measure(form, "COLUMNS"),
        finish=product_body.finish(form, "TOKENS"),
        group=product_body.group(form, alone=False),
        **shown,
    )
    yield part(
        "product",
        head=model.head(form.op, model.launcher(form)),
        doc=_doc(form),
        many=_many(form, model),
        weight=("weight = weight.view(torch.int32)",) if codes else (),
        made="OUT // 2" if form["gated"] else "OUT",
        beside=("beside = _rows(residual)",) if form.op == "linear_add" else (),
        table="CODE_" if codes else "",
        tile=product_tables.gemv_tile(form),
        gemv=gemv,
        skinny=skinny,
    )


def _steps(form: Form) -> Iterator[Part]:
    """Yield the functions that the kernels are put together from."""
    yield from (part("product_reads"), part("product_await"))
    if form.op in product_body.NORMING:
        layer = form.op == "layer_norm_linear"
        yield part("product_measure_layer" if layer else "product_measure_rms")
        yield part("product_gain")
        if not layer:
            yield part(f"weighted_{form.text('weight_in')}")
    if product_body.coded(form):
        yield from quantized.words(form)
        if not form["floats"]:
            yield part("quantized_pairs")
        if form["groups"]:
            yield part("product_groups")
        if form["divided"]:
            yield part("product_divided")
        elif form["floats"] == "nvfp4" or not form["groups"]:
            yield part("product_scaled")
    if form["bias"]:
        yield part("product_biased")
    if form["fn"]:
        yield pointwise.activating(form)
    if form["gated"]:
        yield part("product_gate")
    if form.op == "linear_add":
        yield part("product_added")
    yield part("product_store")


def _launch(form: Form, name: str, skinny: bool) -> Launch:
    """Make the launch of the kernel of one row, or of a few."""
    parts = "[programs, PARTS, TOKENS, ROWS]"
    shared = (
        pointer("sums", parts, "what each of them makes"),
        pointer("arrived", "[programs]", "how many have made theirs"),
    )
    strides = [stride("x_row", "rows.stride(0)")]
    if form.op == "linear_add":
        strides.append(stride("residual_row", "beside.stride(0)"))
    last = [constant("TOKENS", "SKINNY_ROWS")] if skinny else []
    if form.op in product_body.NORMING and not skinny:
        meaning = "columns of x that the statistics of its norm take at a time"
        last.append(constant("SPAN", str(tiles.SPAN), meaning))
    programs = 'triton.cdiv(OUT, tile["ROWS"])'
    return Launch(
        f"{name}_{'skinny' if skinny else 'gemv'}_kernel",
        f'({programs}, tile["PARTS"])' if skinny else f"({programs}, M)",
        (
            *_pointers(form),
            *(shared if skinny else ()),
            *strides,
            *([count("M")] if skinny else []),
            *_constants(form),
            *last,
            *tile("ROWS", "COLUMNS", *(["PARTS"] if skinny else [])),
            *([] if skinny else [constant("PDL", "")]),
        ),
        ("**tile",) if skinny else ("**tile", "**_pdl(x.device)"),
    )


def _pointers(form: Form) -> Iterator[Argument]:
    rows = "rows that lie x_row elements apart"
    yield pointer("x", "[M, IN]", rows, source="rows")
    if not product_body.coded(form):
        yield pointer("weight", "[OUT, IN]")
    else:
        yield pointer("weight", "[OUT, IN / PLANES]", "codes in words of int32")
        yield from quantized.scales(form, "scales")
    if form["zeros"]:
        yield pointer("zeros", "", "for each scale what is taken off the codes")
    if form["bias"]:
        yield pointer("bias", "[OUT]")
    if form.op in product_body.NORMING:
        yield pointer("norm", "[IN]", "weight of the norm of x")
    if form["norm_bias"]:
        yield pointer("norm_bias", "[IN]")
    if form.op == "linear_add":
        beside = "rows that lie residual_row elements apart"
        yield pointer("residual", "[M, OUT]", beside, source="beside")
    shape, meaning = ("[M, OUT]", "")
    if form["gated"]:
        shape, meaning = "[M, OUT / 2]", "rows of weight are gate | up"
    yield pointer("out", shape, meaning)


def _constants(form: Form) -> Iterator[Argument]:
    yield from (constant("IN"), constant("OUT"))
    if product_body.coded(form):
        yield constant("BITS", "bits", "of a code")
        yield constant("RUN", "math.gcd(weight.shape[1], 16)")
    if product_body.coded(form) and form["groups"]:
        yield constant("GROUP", "IN // scale.shape[1]")
    if form.op in product_body.NORMING:
        yield constant("EPS", "eps")


def _many(form: Form, model: Model) -> Lines:
    """Emit the product of many rows: a call of the library, or of the kernel that reads
    codes."""
    lines: list[Line] = []
    x = "x"
    if form.op in product_body.NORMING:
        given = ["x", "norm", *(["bias=norm_bias"] if form["norm_bias"] else [])]
        norm = model.launcher(_as(form, product_body.NORMING[form.op]))
        lines.append(call("h", norm, [*given, "eps=eps"]))
        x = "h"
    bias = "bias=bias" if product_body.coded(form) else "bias"
    given = [x, "weight", *([bias] if form["bias"] else [])]
    function = "torch.nn.functional.linear"
    if product_body.coded(form):
        given[2:2] = ["scale", "bits=bits", *_beside(form)]
        function = model.launcher(_as(form, "quantized_gemm"))
    if form["fn"]:
        act = model.launcher(_as(form, "act_mul" if form["gated"] else "activation"))
        return [
            *lines,
            call("product", function, given),
            f"return {act}(product, fn=fn)",
        ]
    tail = ".add_(residual)" if form.op == "linear_add" else ""
    return [*lines, call("", f"return {function}", given, tail)]


def _beside(form: Form) -> Iterator[str]:
    """Yield what a call of the product of many rows says of codes."""
    if form["zeros"]:
        yield "zeros=zeros"
    if form["floats"] == "nvfp4":
        yield "factor=factor"
    if form["floats"]:
        yield "floats=floats"
    if form["divided"]:
        yield "divided=divided"


def _as(form: Form, op: str) -> Form:
    """Return the form of the op that a launcher calls, with the choices of the
    caller."""
    renamed = {"bias": "norm_bias"} if op == "layer_norm" else {}
    names = forms.CHOICES[op]
    return Form(op, tuple((name, form[renamed.get(name, name)]) for name in names))
