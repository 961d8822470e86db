"""Kernels of elementwise ops, and the activation functions."""

from collections.abc import Iterator

from glmc.backends.triton import tiles
from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import Launch, constant, pointer, stride
from glmc.backends.triton.model import Model, Part, part


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernel of one form, and its launcher."""
    name = "x" if form.op == "activation" else "gate_up"
    shape, meaning = ("[M, F]", f"rows that lie {name}_row elements apart")
    if form.op == "act_mul":
        shape, meaning = "[M, 2F]", f"gate | up, {meaning}"
    yield part("rows")
    yield part("rows_dense")
    yield activating(form)
    yield table()
    yield part(
        form.op,
        launch=Launch(
            f"{model.name(form)}_kernel",
            "(M, triton.cdiv(F, POINTWISE_BLOCK))",
            (
                pointer(name, shape, meaning, source="rows"),
                pointer("out", "[M, F]"),
                stride(f"{name}_row", "rows.stride(0)"),
                constant("F"),
                constant("BLOCK", "POINTWISE_BLOCK", "columns that a program takes"),
            ),
            (f"num_warps={tiles.POINTWISE['warps']}",),
        ),
        head=model.head(form.op, model.launcher(form)),
        act=act(form),
    )


def table() -> Part:
    """Return the table of block sizes: how much of a row a program takes."""
    return part("pointwise", tile=tiles.POINTWISE)


def act(form: Form) -> str:
    """Name the activation function."""
    return f"_{form.text('fn')}"


def activating(form: Form) -> Part:
    """Return the text of the activation function."""
    return part(f"act_{form.text('fn')}")
