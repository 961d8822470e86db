"""Kernels of norms, alone and with the residual addition before."""

from collections.abc import Iterator

from glmc.backends import layout
from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import Argument, Launch, constant, pointer, stride
from glmc.backends.triton.lines import Lines
from glmc.backends.triton.model import Model, Part, part

RMS, LAYER = ("rms_norm", "add_rms_norm"), ("layer_norm", "add_layer_norm")
REDUCED = {
    "reduce_add_rms_norm": "add_rms_norm",
    "reduce_add_layer_norm": "add_layer_norm",
}
"""Ops that begin with a sum of all ranks, to those that do the rest."""
_ROWS = "rows that lie x_row elements apart"
_BOTH = "rows that lie x_row and y_row elements apart"
_SUM = "the sum, rounded to its dtype, and the norm of what was rounded"


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of one form, and its launcher."""
    yield from (part("rows_warps"), part("rows"), part("rows_dense"))
    if form.op in RMS:
        yield part(f"weighted_{form.text('weight_in')}")
    yield part(
        form.op,
        launch=_launch(form, model),
        head=model.head(form.op, model.launcher(form)),
        weighted=f"_weighted_{form['weight_in']}",
        offset=offset(form),
        shift=_SHIFT if form["bias"] else (),
    )


def reduced_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the launcher of one form: what it launches is another op's."""
    rest = REDUCED[form.op]
    launcher = model.launcher(Form(rest, form.choices))
    given = ["x", "total", "weight", *(["bias=bias"] if form["bias"] else [])]
    yield part(
        "reduce_add_norm",
        head=model.head(form.op, model.launcher(form)),
        rest=rest,
        returned=layout.call("", f"return {launcher}", [*given, "eps=eps"], 4),
    )


def normalize_parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of a norm without a weight, and its launcher."""
    yield from (part("rows_warps"), part("rows"), part("rows_dense"))
    yield part(
        form.op,
        head=model.head(form.op, model.launcher(form)),
        launch=Launch(
            f"{form.op}_kernel",
            "(M,)",
            (
                pointer("x", "[M, E]", _ROWS, source="rows"),
                pointer("out", "[M, E]"),
                stride("x_row", "rows.stride(0)"),
                *_NORMED,
            ),
            ("num_warps=_warps(block)",),
        ),
    )


_NORMED = (
    constant("E", meaning="width of a row"),
    constant("EPS", "eps", "added to the mean square"),
    constant("BLOCK", "block", "E rounded up to a power of two"),
)
_SHIFT = ("normed += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)",)


def offset(form: Form) -> Lines:
    """Emit the addition of 1 to a weight that is stored as its difference from 1."""
    return ("gain += 1.0",) if form["offset"] else ()


def _launch(form: Form, model: Model) -> Launch:
    added = form.op.startswith("add_")
    what = "mean square" if form.op in RMS else "variance"
    inputs: list[Argument] = [pointer("x", "[M, E]", _ROWS, source="rows")]
    outputs = [pointer("out", "[M, E]")]
    strides = [stride("x_row", "rows.stride(0)")]
    if added:
        left, right = ("left", "right")
        inputs = [
            pointer("x", "[M, E]", _BOTH, source=left),
            pointer("y", "[M, E]", _BOTH, source=right),
        ]
        outputs = [pointer("total", "[M, E]", _SUM), pointer("out", "[M, E]", _SUM)]
        strides = [
            stride("x_row", f"{left}.stride(0)"),
            stride("y_row", f"{right}.stride(0)"),
        ]
    return Launch(
        f"{model.name(form)}_kernel",
        "(M,)",
        (
            *inputs,
            pointer("weight", "[E]"),
            *([pointer("bias", "[E]")] if form["bias"] else []),
            *outputs,
            *strides,
            constant("E", meaning="width of a row"),
            constant("EPS", "eps", f"added to the {what}"),
            constant("BLOCK", "block", "E rounded up to a power of two"),
        ),
        ("num_warps=_warps(block)",),
    )
