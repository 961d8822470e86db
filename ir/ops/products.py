"""Matrix products fused with the ops before and after them: one family.

A product may norm its operand, activate what it makes, and join the residual stream.
Each rounds where its parts, one after the other, round: the norm and the product to the
dtype of ``x``.

``weight`` is floats ``[out, in]``, or with ``bits`` the codes of such a matrix, with
``scale`` and perhaps ``zeros`` or ``factor``: see :mod:`glmc.ir.ops.quantized`.
"""

from typing import ClassVar

from glmc.ir.activations import ActivationName
from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.ops.elementwise import product_flops, product_type
from glmc.ir.ops.norms import LAYER_FLOPS, RMS_FLOPS, WeightIn, expect_vectors
from glmc.ir.ops.quantized import Floats, quantized_product_type
from glmc.ir.placing import PRODUCT
from glmc.ir.types import TensorType


def _made(types: Types, bits: int | None, floats: Floats) -> TensorType:
    """Return the type of x Wᵀ + b, with W as floats or, with ``bits``, as codes."""
    if bits is not None:
        expect("scale" in types, f"codes of {bits} bits need a scale")
        return quantized_product_type(types, bits, floats)
    for name in ("scale", "zeros", "factor"):
        expect(name not in types, f"{name} goes with codes, which have bits")
    return product_type(types)


class LinearAdd(Op):
    """residual + (x Wᵀ + b): the product joins the residual stream as it is written."""

    mnemonic = "linear_add"
    placing = PRODUCT
    multiplies = True
    x: Value
    weight: Param
    residual: Value
    scale: Param | None = None
    zeros: Param | None = None
    factor: Param | None = None
    bias: Param | None = None
    bits: int | None = None
    floats: Floats = None
    divided: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        made = _made(types, self.bits, self.floats)
        expect(types["residual"] == made, f"{types['residual']} is not {made}")
        return (made,)

    def flops(self, types: Types, call: Call) -> int:
        """Count the product and the sum."""
        return product_flops(types, call) + call.size(types["residual"].dims)


class _Activating(Op):
    """A product x Wᵀ + b, and an activation of it; ``norm_flops`` are those of the norm
    before, for each element of x."""

    multiplies = True
    norm_flops: ClassVar[int] = 0

    def activated(
        self, types: Types, made: TensorType, fn: str | None, gated: bool
    ) -> TensorType:
        """Return the type of fn(y), or of fn(gate) · up where y, of the type ``made``,
        is ``gate | up``."""
        if not gated:
            return made
        expect(fn is not None, "a gate needs an activation, fn")
        width = int(made.dims[-1])
        expect(width % 2 == 0, f"{types['weight']} has no two halves of rows")
        return made.with_last(width // 2)

    def flops(self, types: Types, call: Call) -> int:
        """Count the norm and the product, and one operation each for activation and
        gate."""
        given = self.attributes()
        after = ("fn" in given) + ("gated" in given)
        before = self.norm_flops * call.size(types["x"].dims)
        made = call.size(self.results[0].type.dims)
        return before + product_flops(types, call) + after * made


class LinearAct(_Activating):
    """fn(x Wᵀ + b).

    ``gated``: the rows of W are ``gate | up``, and the result is fn(gate) · up.
    """

    mnemonic = "linear_act"
    placing = PRODUCT
    x: Value
    weight: Param
    scale: Param | None = None
    zeros: Param | None = None
    factor: Param | None = None
    bias: Param | None = None
    bits: int | None = None
    floats: Floats = None
    divided: bool = False
    fn: ActivationName
    gated: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        made = _made(types, self.bits, self.floats)
        return (self.activated(types, made, self.fn, self.gated),)


class RmsNormLinear(_Activating):
    """rms_norm(x) Wᵀ + b, with the weight ``norm``; then fn and gate as in linear_act,
    where they are given.
    """

    mnemonic = "rms_norm_linear"
    placing = PRODUCT
    norm_flops = RMS_FLOPS
    x: Value
    norm: Param
    weight: Param
    scale: Param | None = None
    zeros: Param | None = None
    factor: Param | None = None
    bias: Param | None = None
    bits: int | None = None
    floats: Floats = None
    divided: bool = False
    eps: float
    weight_in: WeightIn = "input"
    unit_offset: bool = False
    fn: ActivationName | None = None
    gated: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        expect_vectors(types["x"], types["norm"])
        made = _made(types, self.bits, self.floats)
        return (self.activated(types, made, self.fn, self.gated),)


class LayerNormLinear(_Activating):
    """layer_norm(x) Wᵀ + b, with the weight ``norm`` and ``norm_bias``; then fn and
    gate as in linear_act, where they are given.
    """

    mnemonic = "layer_norm_linear"
    placing = PRODUCT
    norm_flops = LAYER_FLOPS
    x: Value
    norm: Param
    weight: Param
    scale: Param | None = None
    zeros: Param | None = None
    factor: Param | None = None
    norm_bias: Param | None = None
    bias: Param | None = None
    bits: int | None = None
    floats: Floats = None
    divided: bool = False
    eps: float
    unit_offset: bool = False
    fn: ActivationName | None = None
    gated: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        expect_vectors(types["x"], types["norm"], types.get("norm_bias"))
        made = _made(types, self.bits, self.floats)
        return (self.activated(types, made, self.fn, self.gated),)
