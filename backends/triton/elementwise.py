"""Kernels of elementwise ops that no fusion took."""

from collections.abc import Iterator

from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import Argument, Launch, constant, pointer, stride
from glmc.backends.triton.lines import Lines
from glmc.backends.triton.model import Model, Part, part
from glmc.backends.triton.pointwise import table

OPS = ("add", "mul", "scale", "gate", "soft_cap", "scale_by_factor", "blend")
_SECOND = {"add": "y", "mul": "y", "gate": "g", "blend": "y"}
_DOCS = {
    "add": "x + y, both [..., F].",
    "mul": "x · y, both [..., F].",
    "scale": "x · factor.",
    "gate": "x [..., F] · fn(g), with g for each channel or for each of so many heads.",
    "soft_cap": "cap · tanh(x / cap).",
    "scale_by_factor": "x times number `at` of the layer's factors.",
    "blend": "weight · x + (1 - weight) · y, both [..., F].",
}
_OPEN = {
    "sigmoid": ("value *= tl.sigmoid(opened)",),
    "softplus": (
        "# Above 20 it is the number itself, as in torch.",
        "soft = tl.log(1.0 + tl.exp(tl.minimum(opened, 20.0)))",
        "value *= tl.where(opened > 20.0, opened, soft)",
    ),
}


_MORE = {
    "blend": pointer("weight", "[F]", "shares of x"),
    "scale_by_factor": pointer("factors", "[1, 1, n]"),
}


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of one form, and its launcher."""
    second = _SECOND.get(form.op)
    yield from (part("rows"), part("rows_dense"), table())
    if form.op == "soft_cap":
        yield part("act_tanh")
    yield part(
        "elementwise",
        name=model.name(form),
        doc=_DOCS[form.op],
        beside=(f"beside = _rows({second})",) if second else (),
        steps=_steps(form),
        head=model.head(form.op, model.launcher(form)),
        launch=_launch(form, model.name(form)),
    )


def _steps(form: Form) -> Lines:
    """Emit the op on values in float32."""
    if form.op == "scale" and form["rounded"]:
        return ("value *= tl.full([1], FACTOR, x.dtype.element_ty).to(tl.float32)",)
    if form.op == "scale":
        return ("value *= FACTOR",)
    if form.op == "gate":
        place = "place = g + row * g_row + column // (F // G)"
        load = "opened = tl.load(place, mask=inside, other=0.0).to(tl.float32)"
        return (place, load, *_OPEN[form.text("fn")])
    if form.op == "soft_cap":
        return ("value = CAP * _tanh(value / CAP)",)
    if form.op == "scale_by_factor":
        return ("value *= tl.load(factors + AT)",)
    if form.op == "blend":
        return (
            "other = tl.load(y + row * y_row + column, mask=inside, other=0.0)",
            "share = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)",
            "value = share * value + (1.0 - share) * other.to(tl.float32)",
        )
    sign = {"add": "+=", "mul": "*="}[form.op]
    load = "other = tl.load(y + row * y_row + column, mask=inside, other=0.0)"
    return (load, f"value {sign} other.to(tl.float32)")


def _launch(form: Form, name: str) -> Launch:
    rows = "rows that lie {}_row elements apart"
    second = _SECOND.get(form.op, "")
    beside: list[Argument] = []
    strides = [stride("x_row", "rows.stride(0)")]
    if second:
        shape = "[M, G]" if second == "g" else "[M, F]"
        beside = [pointer(second, shape, rows.format(second), source="beside")]
        strides.append(stride(f"{second}_row", "beside.stride(0)"))
    if form.op in _MORE:
        beside.append(_MORE[form.op])
    more = {
        "soft_cap": [constant("CAP", "cap")],
        "scale_by_factor": [constant("AT", "at", "which of the factors")],
        "scale": [constant("FACTOR", "factor")],
        "gate": [
            constant("G", "g.shape[-1]", "gates of a row, for F / G channels each")
        ],
    }
    block = "min(POINTWISE_BLOCK, triton.next_power_of_2(F))"
    return Launch(
        f"{name}_kernel",
        "(M, triton.cdiv(F, POINTWISE_BLOCK))",
        (
            pointer("x", "[M, F]", rows.format("x"), source="rows"),
            *beside,
            pointer("out", "[M, F]"),
            *strides,
            constant("F"),
            *more.get(form.op, []),
            constant("BLOCK", block, "columns that a program takes"),
        ),
    )
