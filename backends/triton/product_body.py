"""Statements of a product's kernels: what is read, what is summed, what is stored."""

from collections.abc import Iterator

from glmc.backends.triton import norms, pointwise, quantized
from glmc.backends.triton.forms import Form
from glmc.backends.triton.lines import Line, Lines, call

NORMING = {"rms_norm_linear": "rms_norm", "layer_norm_linear": "layer_norm"}


def coded(form: Form) -> bool:
    """Tell whether the weight is stored as codes."""
    return form.op == "quantized_linear" or form["codes"] is True


def rows(form: Form) -> Lines:
    """Emit the indices of the weight's rows that a program reads."""
    if form["gated"]:
        return ("row = _gate_rows(first, OUT, ROWS)",)
    return ("row = first * ROWS + tl.arange(0, ROWS)",)


def under_way(form: Form) -> Lines:
    if form.op in NORMING:
        return (
            "# Weights are under way while x is measured, and the next ones while some"
            " multiply.",
        )
    return ("# The next weights are under way while some multiply.",)


def measure(form: Form, span: str) -> Lines:
    """Emit the statistics of the norm, over rows of x."""
    tokens = "1" if span == "SPAN" else "TOKENS"
    given = ["x", "x_row", "token", "M", "IN", "EPS", tokens, span]
    if form.op == "rms_norm_linear":
        return (call("scale", "_measure", given),)
    if form.op == "layer_norm_linear":
        return (call("mean, scale", "_measure_centred", given),)
    return ()


def value(form: Form) -> Lines:
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


def zeros(form: Form) -> dict[str, object]:
    """Emit what takes the zero points of groups off the sums of one row."""
    if not form["zeros"]:
        return {"unseen": (), "seen": (), "scaled": "(made - above) * gain"}
    return {
        "unseen": ("seen = tl.zeros([1, COLUMNS], tl.float32)",),
        "seen": ("seen += value.to(tl.float32)",),
        "scaled": "(made - above - point * seen) * gain",
    }


def group(form: Form, alone: bool) -> Lines:
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


def weighed(form: Form, tokens: str) -> Iterator[Line]:
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


def finish(form: Form, tokens: str) -> Lines:
    """Emit the store of the result: the product, rounded as in memory, and the
    epilogue."""
    lines: list[Line] = [*weighed(form, tokens)]
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
