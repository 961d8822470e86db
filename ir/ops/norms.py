"""Normalisations over the last dimension, alone and with the residual add before."""

from typing import Literal

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.placing import NORM
from glmc.ir.types import TensorType

WeightIn = Literal["input", "f32"]

RMS_FLOPS = 4
"""Operations on an element: square, sum, scale, weight."""
LAYER_FLOPS = 7
"""Operations on an element: sum, centre, square, sum, scale, weight, bias."""


def expect_vectors(x: TensorType, *vectors: TensorType | None) -> None:
    """Check that weights and biases of a norm have a number for each channel of x."""
    for vector in vectors:
        if vector:
            expect(vector.dims == x.dims[-1:], f"{vector} does not fit {x}")


class RmsNorm(Op):
    """y = x / sqrt(mean(x²) + eps) · w, statistics in fp32 (arXiv:1910.07467).

    ``weight_in`` says where the weight multiplies: ``input`` after rounding to the
    input's dtype (transformers), ``f32`` before (ChatGLM's own code). With
    ``unit_offset`` it is 1 + w that multiplies.
    """

    mnemonic = "rms_norm"
    placing = NORM
    x: Value
    weight: Param
    eps: float
    weight_in: WeightIn = "input"
    unit_offset: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        expect_vectors(types["x"], types["weight"])
        return (types["x"],)

    def flops(self, types: Types, call: Call) -> int:
        """See :data:`RMS_FLOPS`."""
        return RMS_FLOPS * call.size(types["x"].dims)


class LayerNorm(Op):
    """y = (x - mean(x)) / sqrt(var(x) + eps) · w + b, in fp32 (arXiv:1607.06450).

    With ``unit_offset`` it is 1 + w that multiplies.
    """

    mnemonic = "layer_norm"
    placing = NORM
    x: Value
    weight: Param
    bias: Param | None = None
    eps: float
    unit_offset: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        expect_vectors(types["x"], types["weight"], types.get("bias"))
        return (types["x"],)

    def flops(self, types: Types, call: Call) -> int:
        """See :data:`LAYER_FLOPS`."""
        return LAYER_FLOPS * call.size(types["x"].dims)


class LayerNormHeads(Op):
    """layer_norm of each head of ``[B,T,n,D]``, with a row of the weight for each."""

    mnemonic = "layer_norm_heads"
    placing = NORM
    x: Value
    weight: Param
    eps: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight = types["x"], types["weight"]
        expect(weight.dims == x.dims[-2:], f"{weight} does not fit {x}")
        return (x,)


class RmsNormalize(Op):
    """x / sqrt(mean(x²) + eps), in fp32: an RMSNorm without a weight."""

    mnemonic = "rms_normalize"
    placing = NORM
    x: Value
    eps: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class LayerNormalize(Op):
    """(x - mean(x)) / sqrt(var(x) + eps), in fp32: a LayerNorm without a weight."""

    mnemonic = "layer_normalize"
    placing = NORM
    x: Value
    eps: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class AddRmsNorm(Op):
    """s = x + y and rms_norm(s): the residual stream is read once for both."""

    mnemonic = "add_rms_norm"
    x: Value
    y: Value
    weight: Param
    eps: float
    weight_in: WeightIn = "input"
    unit_offset: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        expect(types["x"] == types["y"], f"{types['x']} is not {types['y']}")
        expect_vectors(types["x"], types["weight"])
        return (types["x"], types["x"])

    def flops(self, types: Types, call: Call) -> int:
        """Count the sum and the norm; see :data:`RMS_FLOPS`."""
        return (1 + RMS_FLOPS) * call.size(types["x"].dims)


class AddLayerNorm(Op):
    """s = x + y and layer_norm(s): the residual stream is read once for both."""

    mnemonic = "add_layer_norm"
    x: Value
    y: Value
    weight: Param
    bias: Param | None = None
    eps: float
    unit_offset: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        expect(types["x"] == types["y"], f"{types['x']} is not {types['y']}")
        expect_vectors(types["x"], types["weight"], types.get("bias"))
        return (types["x"], types["x"])

    def flops(self, types: Types, call: Call) -> int:
        """Count the sum and the norm; see :data:`LAYER_FLOPS`."""
        return (1 + LAYER_FLOPS) * call.size(types["x"].dims)
