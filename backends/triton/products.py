"""Products of few rows: the prologue of x, the weights, the epilogue."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from glmc.backends.layout import item
from glmc.backends.triton import forms, norms, pointwise, quantized, tiles
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
from glmc.backends.triton.model import Model, Part, cores, part
from glmc.backends.triton.uses import OpUse

NORMING = {"rms_norm_linear": "rms_norm", "layer_norm_linear": "layer_norm"}
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
        if use.name in NORMING:
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
    return OpUse(NORMING[use.name], attrs, bias, shapes)


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
    made = "h Wᵀ" if form.op in NORMING else "x Wᵀ"
    made += " + bias" if form["bias"] else ""
    where = ", h = norm(x)" if form.op in NORMING else ""
    weight = "codes" if coded(form) else "floats"
    if form["gated"]:
        return f"fn(gate) · up of {made} = gate | up{where}; W [OUT, IN] is {weight}."
    if form["fn"]:
        made = f"fn({made})"
    if form.op == "linear_add":
        made = f"residual + ({made})" if form["bias"] else f"residual + {made}"
    return f"{made}{where}; W [OUT, IN] is {weight}."


def coded(form: Form) -> bool:
    """Tell whether the weight is stored as codes."""
    return form.op == "quantized_linear" or form["codes"] is True


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernels of one form, and its launcher; before them the functions they
    share."""
    yield from (part("rows"), part("rows_dense"))
    yield from _tables(model)
    yield from _steps(form)
    named, codes = model.name(form), coded(form)
    kind = quantized.loop(form) if codes else "floats"
    shown: dict[str, object] = {
        "name": named,
        "value": _value(form),
        "planes": quantized.planes(form) if codes else (),
        "rows": _rows(form),
    }
    gemv, skinny = _launch(form, named, False), _launch(form, named, True)
    yield part(
        "product_gemv",
        launch=gemv,
        body=f"kernels/product_gemv_{kind}.py.j2",
        under_way=_under_way(form),
        measure=_measure(form, "SPAN"),
        finish=_finish(form, "1"),
        group=_group(form, alone=True),
        **_zeros(form),
        **shown,
    )
    yield part(
        "product_skinny",
        launch=skinny,
        body=f"kernels/product_skinny_{kind}.py.j2",
        width="IN // PLANES" if codes else "IN",
        measure=_measure(form, "COLUMNS"),
        finish=_finish(form, "TOKENS"),
        group=_group(form, alone=False),
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
        tile=_gemv_tile(form),
        gemv=gemv,
        skinny=skinny,
    )


def _gemv_tile(form: Form) -> str:
    """Emit the choice of a tile for one row of x."""
    if not coded(form):
        return "_tile(GEMV, OUT)"
    if form["floats"]:
        return "_tile(SMALL_GEMV, OUT)"
    if form["groups"]:
        return "_group_tile(x.element_size(), IN // scale.shape[1])"
    return "_tile(CODE_GEMV[bits], OUT)"


def _tables(model: Model) -> Iterator[Part]:
    """Yield the tables of tiles, as data that tuning replaces."""
    kinds = {coded(form) for form in model.forms(*OPS)}
    for codes in sorted(kinds):
        gemv = _by_size(tiles.CODE_GEMV) if codes else _laid(tiles.LINEAR_GEMV, 4)
        skinny = tiles.CODE_SKINNY if codes else tiles.LINEAR_SKINNY
        yield part(
            "product_tiles_codes" if codes else "product_tiles",
            gemv=gemv,
            skinny=_by_size(skinny),
            rows=tiles.CODE_GEMV_ROWS if codes else tiles.ONE_ROW,
            groups=_by_size(tiles.GROUP_GEMV),
        )
    if any(form["floats"] for form in model.forms(*OPS)):
        yield part("product_tiles_small", gemv=_laid(tiles.SMALL_GEMV, 4))
    yield cores()
    yield part(
        "product_tables",
        few=tiles.FEW_ROWS,
        counters=tiles.counters(),
        cores=tiles.CORES,
        pdl=json.dumps(tiles.PDL).replace("[", "(").replace("]", ")"),
    )


def _by_size(table: Mapping[int, Mapping[int, tiles.Tile]]) -> Lines:
    """Return a table of tiles for each number of bytes of an element, or of bits."""
    found: list[str] = []
    for size, rows in table.items():
        inner = [f"    {line}" for line in _laid(rows, 8)]
        found += [f"{size}: {{", *inner, "},"]
    return found


def _laid(table: Mapping[int, tiles.Tile], indent: int) -> list[str]:
    """Lay out ``8192: {"ROWS": 8, ...},`` for each entry."""
    rows = []
    for least, found in table.items():
        pairs = [f"{json.dumps(name)}: {size}" for name, size in found.items()]
        text = item(f"{least}: {{", pairs, "}", indent)
        rows += (text + ",").replace("\n" + " " * indent, "\n").split("\n")
    return rows


def _steps(form: Form) -> Iterator[Part]:
    """Yield the functions that the kernels are put together from."""
    yield from (part("product_reads"), part("product_await"))
    if form.op in NORMING:
        layer = form.op == "layer_norm_linear"
        yield part("product_measure_layer" if layer else "product_measure_rms")
        yield part("product_gain")
        if not layer:
            yield part(f"weighted_{form.text('weight_in')}")
    if coded(form):
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


def _rows(form: Form) -> Lines:
    """Emit the indices of the weight's rows that a program reads."""
    if form["gated"]:
        return ("row = _gate_rows(first, OUT, ROWS)",)
    return ("row = first * ROWS + tl.arange(0, ROWS)",)


def _under_way(form: Form) -> Lines:
    if form.op in NORMING:
        return (
            "# Weights are under way while x is measured, and the next ones while some"
            " multiply.",
        )
    return ("# The next weights are under way while some multiply.",)


def _measure(form: Form, span: str) -> Lines:
    """Emit the statistics of the norm, over rows of x."""
    tokens = "1" if span == "SPAN" else "TOKENS"
    given = ["x", "x_row", "token", "M", "IN", "EPS", tokens, span]
    if form.op == "rms_norm_linear":
        return (call("scale", "_measure", given),)
    if form.op == "layer_norm_linear":
        return (call("mean, scale", "_measure_centred", given),)
    return ()


def _value(form: Form) -> Lines:
    """Emit the load of x's columns, normed where the product norms."""
    read = "value = _operands(x, x_row, token, column, M, IN)"
    if form.op not in NORMING:
        return (read,)
    gain = ["gain = _gain(norm, column, IN)", *norms.offset(form)]
    if form.op == "rms_norm_linear":
        weighted = f"_weighted_{form['weight_in']}"
        normal = "normal = value.to(tl.float32) * scale[:, None]"
        return (
            read,
            normal,
            *gain,
            call("value", weighted, ["normal", "gain", "value.dtype"]),
        )
    shift = ["normal += _gain(norm_bias, column, IN)"] if form["norm_bias"] else []
    return (
        read,
        "normal = (value.to(tl.float32) - mean[:, None]) * scale[:, None]",
        *gain,
        "normal *= gain",
        *shift,
        "value = normal.to(value.dtype)",
    )


def _zeros(form: Form) -> dict[str, object]:
    """Emit what takes the zero points of groups off the sums of one row."""
    if not form["zeros"]:
        return {"unseen": (), "seen": (), "scaled": "(made - above) * gain"}
    return {
        "unseen": ("seen = tl.zeros([1, COLUMNS], tl.float32)",),
        "seen": ("seen += value.to(tl.float32)",),
        "scaled": "(made - above - point * seen) * gain",
    }


def _group(form: Form, alone: bool) -> Lines:
    """Emit the load of a group's scale, and of the number to subtract from its codes.

    Args:
        form: the product.
        alone: whether codes are of one row of x, and shifted in pairs.
    """
    places = ["row", "column", "IN", "OUT", "GROUP"]
    found = call("share, known", "_group_places", places)
    if form["floats"]:
        return [found, *quantized.gain(form, "scales + share", "known")]
    lines: list[Line] = [
        found,
        "gain = tl.load(scales + share, mask=known, other=0.0).to(tl.float32)",
    ]
    zeros = "tl.load(zeros + share, mask=known, other=0).to(tl.float32)"
    if not alone:
        lines.append("point = 3 << (BITS - 1)")
    if form["zeros"]:
        lines.append(f"point {'=' if alone else '+='} {zeros}")
    return lines


def _weighed(form: Form, tokens: str) -> Iterator[Line]:
    """Emit what multiplies the sums of whole rows of codes."""
    if not coded(form):
        return
    if not form["groups"]:
        # A matrix unit was given codes as large as they are.
        total = "total * LIFT" if form["floats"] and tokens == "1" else "total"
        yield f"total = _scaled({total}, scales, row, OUT)"
    if form["floats"] == "nvfp4":
        by = "_divided" if form["divided"] else "_scaled"
        yield f"total = {by}(total, factor, row, OUT)"


def _finish(form: Form, tokens: str) -> Lines:
    """Emit the store of the result: the product, rounded as in memory, and the
    epilogue."""
    lines: list[Line] = [*_weighed(form, tokens)]
    if form["bias"]:
        lines.append("total = _biased(total, bias, row, OUT)")
    lines.append("product = total.to(out.dtype.element_ty)")
    rows, outputs = "row", "OUT"
    if form["gated"]:
        rows, outputs = "half", "OUT // 2"
        lines += [
            f"gate, up = _gate_and_up(product, {tokens}, ROWS)",
            f"product = ({pointwise.act(form)}(gate) * up).to(product.dtype)",
            "half = first * (ROWS // 2) + tl.arange(0, ROWS // 2)",
        ]
    elif form["fn"]:
        active = f"{pointwise.act(form)}(product.to(tl.float32))"
        lines.append(f"product = {active}.to(product.dtype)")
    if form.op == "linear_add":
        given = ["product", "residual", "residual_row", "token", "row", "M", "OUT"]
        lines.append(call("product", "_added", given))
    given = ["out", "product", "token", rows, "M", outputs]
    return [*lines, call("", "_store_rows", given)]


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
    if form.op in NORMING and not skinny:
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
    if not coded(form):
        yield pointer("weight", "[OUT, IN]")
    else:
        yield pointer("weight", "[OUT, IN / PLANES]", "codes in words of int32")
        yield from quantized.scales(form, "scales")
    if form["zeros"]:
        yield pointer("zeros", "", "for each scale what is taken off the codes")
    if form["bias"]:
        yield pointer("bias", "[OUT]")
    if form.op in NORMING:
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
    if coded(form):
        yield constant("BITS", "bits", "of a code")
        yield constant("RUN", "math.gcd(weight.shape[1], 16)")
    if coded(form) and form["groups"]:
        yield constant("GROUP", "IN // scale.shape[1]")
    if form.op in NORMING:
        yield constant("EPS", "eps")


def _many(form: Form, model: Model) -> Lines:
    """Emit the product of many rows: a call of the library, or of the kernel that reads
    codes."""
    lines: list[Line] = []
    x = "x"
    if form.op in NORMING:
        given = ["x", "norm", *(["bias=norm_bias"] if form["norm_bias"] else [])]
        norm = model.launcher(_as(form, NORMING[form.op]))
        lines.append(call("h", norm, [*given, "eps=eps"]))
        x = "h"
    bias = "bias=bias" if coded(form) else "bias"
    given = [x, "weight", *([bias] if form["bias"] else [])]
    function = "torch.nn.functional.linear"
    if coded(form):
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
