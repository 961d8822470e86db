"""Ops that read weights as they are stored: int8 codes, one scale per row.

``weight`` holds the codes: i8 ``[rows, in]``, or with ``bits=4`` i8 ``[rows, in / 2]``,
two to a byte, the even column in the high nibble. ``scale`` is ``[rows]``. What an op
computes with is ``code · scale``, rounded to the dtype of ``scale``.
"""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.types import TensorType


def _width(weight: TensorType, scale: TensorType, bits: int) -> int:
    """Columns of the matrix that the codes stand for."""
    expect(bits in (4, 8), f"codes have 4 or 8 bits, not {bits}")
    expect(weight.dtype == "i8", f"codes must be i8, not {weight}")
    expect(len(weight.dims) == 2, f"weight must have 2 dims, not {weight}")
    expect(scale.dims == weight.dims[:1], f"scale {scale} does not fit {weight}")
    return int(weight.dims[1]) * 8 // bits


class QuantizedLinear(Op):
    """y = x Wᵀ + b, with W the rows of int8 or int4 codes times their scales."""

    mnemonic = "quantized_linear"
    multiplies = True
    x: Value
    weight: Param
    scale: Param
    bias: Param | None = None
    bits: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight, scale = types["x"], types["weight"], types["scale"]
        width = _width(weight, scale, self.bits)
        expect(x.dims[-1] == width, f"{x} does not multiply {width} columns")
        expect(x.dtype == scale.dtype, f"{x} and scale {scale} differ in dtype")
        bias = types.get("bias")
        if bias:
            expect(bias.dims == weight.dims[:1], f"bias {bias} does not fit {weight}")
        return (x.with_last(weight.dims[0]),)

    def flops(self, types: Types, call: Call) -> int:
        """A multiply-add for each row of x and each weight; the scales with them."""
        rows = call.size(types["weight"].dims[:1])
        return 2 * call.size(types["x"].dims) * rows


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
        width = _width(types["weight"], scale, self.bits)
        return (TensorType(dtype=scale.dtype, dims=(*ids.dims, width)),)

    def nbytes(self, types: Types, call: Call) -> int:
        """The ids, their rows of codes with a scale each, and what these stand for."""
        row = TensorType(dtype="i8", dims=types["weight"].dims[1:])
        scale = TensorType(dtype=types["scale"].dtype, dims=())
        rows = call.size(types["ids"].dims) * (call.nbytes(row) + call.nbytes(scale))
        return call.nbytes(types["ids"]) + rows + call.nbytes(self.results[0].type)
