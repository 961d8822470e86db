"""Ops that read weights as codes of 4 or 8 bits, with a scale per row or per group.

``weight`` holds the codes of ``[rows, in]`` as bytes: i8 ``[rows, in * bits / 8]``, in
the order that the target packs them in at load time. ``scale`` is
``[rows]`` or ``[rows, groups]``, where a group is ``in / groups`` neighbours of a row;
``zeros``, i8 ``[rows, groups]``, is subtracted from the codes of a group. An op
computes with ``(code - zero) · scale``, rounded to the dtype of ``scale``.
"""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.ops.elementwise import product_flops
from glmc.ir.placing import PRODUCT
from glmc.ir.types import TensorType


def _width(types: Types, bits: int) -> int:
    """Check the operands; return the columns of the matrix that the codes stand for."""
    weight, scale, zeros = types["weight"], types["scale"], types.get("zeros")
    expect(bits in (4, 8), f"codes have 4 or 8 bits, not {bits}")
    expect(weight.dtype == "i8", f"codes must be i8, not {weight}")
    expect(len(weight.dims) == 2, f"weight must have 2 dims, not {weight}")
    expect(scale.dims[:1] == weight.dims[:1], f"scale {scale} does not fit {weight}")
    width = int(weight.dims[1]) * 8 // bits
    expect(len(scale.dims) in (1, 2), f"scale must have 1 or 2 dims, not {scale}")
    if len(scale.dims) == 2:
        groups = int(scale.dims[1])
        expect(width % groups == 0, f"{groups} groups do not divide {width} columns")
    if zeros:
        expect(zeros.dtype == "i8", f"zeros must be i8, not {zeros}")
        expect(zeros.dims == scale.dims, f"zeros {zeros} do not fit scale {scale}")
    return width


def quantized_product_type(types: Types, bits: int) -> TensorType:
    """Return the type of x Wᵀ + b, from those of ``x``, ``weight``, ``scale`` and
    perhaps ``zeros`` and ``bias``."""
    x, weight, scale = types["x"], types["weight"], types["scale"]
    width = _width(types, bits)
    expect(x.dims[-1] == width, f"{x} does not multiply {width} columns")
    expect(x.dtype == scale.dtype, f"{x} and scale {scale} differ in dtype")
    bias = types.get("bias")
    if bias:
        expect(bias.dims == weight.dims[:1], f"bias {bias} does not fit {weight}")
    return x.with_last(weight.dims[0])


class QuantizedLinear(Op):
    """y = x Wᵀ + b, with W int8 or int4 codes, less their zeros, times their scales."""

    mnemonic = "quantized_linear"
    placing = PRODUCT
    multiplies = True
    x: Value
    weight: Param
    scale: Param
    zeros: Param | None = None
    bias: Param | None = None
    bits: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (quantized_product_type(types, self.bits),)

    def flops(self, types: Types, call: Call) -> int:
        """See :func:`~glmc.ir.ops.elementwise.product_flops`."""
        return product_flops(types, call)


class QuantizedEmbedding(Op):
    """y[b,t] = row ids[b,t] of int8 or int4 codes times its scale."""

    mnemonic = "quantized_embedding"
    ids: Value
    weight: Param
    scale: Param
    bits: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        ids, scale = types["ids"], types["scale"]
        expect(ids.dtype == "i64", f"ids must be i64, not {ids}")
        width = _width(types, self.bits)
        expect(len(scale.dims) == 1, f"scale must have 1 dim, not {scale}")
        return (TensorType(dtype=scale.dtype, dims=(*ids.dims, width)),)

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the ids, their rows of codes with a scale each, and the rows they stand
        for."""
        row = TensorType(dtype="i8", dims=types["weight"].dims[1:])
        scale = TensorType(dtype=types["scale"].dtype, dims=())
        rows = call.size(types["ids"].dims) * (call.nbytes(row) + call.nbytes(scale))
        return call.nbytes(types["ids"]) + rows + call.nbytes(self.results[0].type)
