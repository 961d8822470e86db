"""Ops that read weights as codes of 4 or 8 bits, with a scale per row or per group.

``weight`` holds the codes of ``[rows, in]`` as bytes: i8 ``[rows, in * bits / 8]``, in
the order that the target packs them in at load time. ``scale`` is
``[rows]`` or ``[rows, groups]``, where a group is ``in / groups`` neighbours of a row;
``zeros``, i8 ``[rows, groups]``, is subtracted from the codes of a group. An op
computes with ``(code - zero) · scale``, rounded to the dtype of its operand.

With ``floats`` the codes are small floats, e2m1 of 4 bits or e4m3 of 8, without zeros:

``fp8``   e4m3, ``scale`` in f32
``nvfp4`` e2m1, ``scale`` in e4m3 (``f8``), multiplied by ``factor``, f32 ``[rows]``, or
          with ``divided`` divided by it
``mx``    e2m1 or e4m3, ``scale`` a power of two (``u8``), by 127 more
"""

from typing import Literal

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.ops.elementwise import product_flops
from glmc.ir.placing import PRODUCT
from glmc.ir.types import TensorType

Floats = Literal["fp8", "nvfp4", "mx"] | None
"""Small floats that codes are; None: integers."""
SCALES = {"fp8": "f32", "nvfp4": "f8", "mx": "u8"}
"""The dtype of scales, by what the codes are; of integers it is the operand's."""


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


def _expect_floats(types: Types, bits: int, floats: Floats) -> None:
    """Check what goes with small floats of a kind, and what with integers."""
    scale, factor = types["scale"], types.get("factor")
    if floats is None:
        expect(factor is None, "factor goes with nvfp4")
        return
    fits = {"fp8": (8,), "nvfp4": (4,), "mx": (4, 8)}[floats]
    expect(bits in fits, f"{floats} has no codes of {bits} bits")
    told = f"scale of {floats} must be {SCALES[floats]}, not {scale}"
    expect(scale.dtype == SCALES[floats], told)
    expect("zeros" not in types, "floats have no zeros")
    expect((factor is None) == (floats != "nvfp4"), "nvfp4 has a factor, others none")
    if factor:
        rows = TensorType(dtype="f32", dims=types["weight"].dims[:1])
        expect(factor == rows, f"factor must be {rows}, not {factor}")


def stack_type(types: Types, bits: int, floats: Floats) -> TensorType:
    """Return the type of the floats that a stack of matrices of codes stands for, from
    those of ``x``, ``weight``, ``scale`` and perhaps ``zeros`` and ``factor``."""
    count = types["weight"].dims[0]
    one = {"x": types["x"]}
    for name, stack in types.items():
        if name != "x":
            expect(
                stack.dims[:1] == (count,), f"{name} {stack} has not {count} experts"
            )
            one[name] = TensorType(dtype=stack.dtype, dims=stack.dims[1:])
    expect(len(one["scale"].dims) == 2, f"scale {types['scale']} has no groups")
    width = _width(one, bits)
    _expect_floats(one, bits, floats)
    same = floats is not None or one["scale"].dtype == one["x"].dtype
    expect(same, f"{one['x']} and scale {types['scale']} differ in dtype")
    dims = (count, one["weight"].dims[0], width)
    return TensorType(dtype=one["x"].dtype, dims=dims)


def quantized_product_type(types: Types, bits: int, floats: Floats) -> TensorType:
    """Return the type of x Wᵀ + b, from those of ``x``, ``weight``, ``scale`` and
    perhaps ``zeros``, ``factor`` and ``bias``."""
    x, weight, scale = types["x"], types["weight"], types["scale"]
    width = _width(types, bits)
    _expect_floats(types, bits, floats)
    expect(x.dims[-1] == width, f"{x} does not multiply {width} columns")
    same = floats is not None or x.dtype == scale.dtype
    expect(same, f"{x} and scale {scale} differ in dtype")
    bias = types.get("bias")
    if bias:
        expect(bias.dims == weight.dims[:1], f"bias {bias} does not fit {weight}")
    return x.with_last(weight.dims[0])


class QuantizedLinear(Op):
    """y = x Wᵀ + b, with W codes, less their zeros, times their scales."""

    mnemonic = "quantized_linear"
    placing = PRODUCT
    multiplies = True
    x: Value
    weight: Param
    scale: Param
    zeros: Param | None = None
    factor: Param | None = None
    bias: Param | None = None
    bits: int
    floats: Floats = None
    divided: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (quantized_product_type(types, self.bits, self.floats),)

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
