"""Lookups, matrix products, pointwise ops and views."""

from typing import Literal

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.types import TensorType

ActivationFn = Literal["silu", "gelu", "gelu_tanh", "relu", "tanh"]


class Embedding(Op):
    """y[b,t] = weight[ids[b,t]]."""

    mnemonic = "embedding"
    ids: Value
    weight: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        ids, weight = types["ids"], types["weight"]
        expect(ids.dtype == "i64", f"ids must be i64, not {ids}")
        expect(len(weight.dims) == 2, f"weight must have 2 dims, not {weight}")
        return (TensorType(dtype=weight.dtype, dims=(*ids.dims, weight.dims[1])),)

    def flops(self, types: Types, call: Call) -> int:
        """None: rows are copied."""
        return 0

    def nbytes(self, types: Types, call: Call) -> int:
        """The ids, and their rows of the table read and written."""
        rows = call.nbytes(self.results[0].type)
        return call.nbytes(types["ids"]) + 2 * rows


class Linear(Op):
    """y = x Wᵀ + b, with W as ``[out, in]``."""

    mnemonic = "linear"
    multiplies = True
    x: Value
    weight: Param
    bias: Param | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight, bias = types["x"], types["weight"], types.get("bias")
        expect(len(weight.dims) == 2, f"weight must have 2 dims, not {weight}")
        expect(x.dims[-1] == weight.dims[1], f"{x} does not multiply {weight}")
        expect(x.dtype == weight.dtype, f"{x} and {weight} differ in dtype")
        if bias:
            expect(bias.dims == weight.dims[:1], f"bias {bias} does not fit {weight}")
        return (x.with_last(weight.dims[0]),)

    def flops(self, types: Types, call: Call) -> int:
        """A multiply-add for each row of x and each weight; the bias with it."""
        rows = call.size(types["x"].dims[:-1])
        return 2 * rows * call.size(types["weight"].dims)


class _Binary(Op):
    x: Value
    y: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        expect(types["x"] == types["y"], f"{types['x']} is not {types['y']}")
        return (types["x"],)


class Add(_Binary):
    """x + y."""

    mnemonic = "add"


class Mul(_Binary):
    """x · y, element by element."""

    mnemonic = "mul"


class Scale(Op):
    """factor · x, rounded to x's dtype."""

    mnemonic = "scale"
    x: Value
    factor: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class ZerosLike(Op):
    """Zeros of x's type: what the first layer receives as residual."""

    mnemonic = "zeros_like"
    x: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)

    def flops(self, types: Types, call: Call) -> int:
        """None."""
        return 0

    def nbytes(self, types: Types, call: Call) -> int:
        """The zeros; x is not read."""
        return call.nbytes(self.results[0].type)


class Activation(Op):
    """fn(x). ``gelu`` is the exact (erf) form, ``gelu_tanh`` its tanh approximation."""

    mnemonic = "activation"
    x: Value
    fn: ActivationFn

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class ActMul(Op):
    """fn(gate) · up of a packed ``gate | up``; the two halves are read once."""

    mnemonic = "act_mul"
    gate_up: Value
    fn: ActivationFn

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        packed = types["gate_up"]
        width = packed.dims[-1]
        expect(isinstance(width, int) and width % 2 == 0, f"{packed} does not halve")
        return (packed.with_last(int(width) // 2),)

    def flops(self, types: Types, call: Call) -> int:
        """The activation, counted as one operation, and the product."""
        return 2 * call.size(self.results[0].type.dims)


class Split(Op):
    """Views of the last dimension, one per size."""

    mnemonic = "split"
    launches = 0
    x: Value
    sizes: tuple[int, ...]

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        expect(sum(self.sizes) == x.dims[-1], f"{self.sizes} do not sum to {x}")
        return tuple(x.with_last(size) for size in self.sizes)


class JoinHeads(Op):
    """The channels of each head of x and then those of y, whose one head serves all."""

    mnemonic = "join_heads"
    x: Value
    y: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, y = types["x"], types["y"]
        expect(len(x.dims) == 4, f"x must be [B,T,heads,width], not {x}")
        one = y.dims[:-1] == (*x.dims[:2], 1) and y.dtype == x.dtype
        expect(one, f"{y} is not one head beside {x}")
        return (x.with_last(int(x.dims[-1]) + int(y.dims[-1])),)


class FirstToken(Op):
    """``[B,T,E]`` to its first token ``[B,E]``."""

    mnemonic = "first_token"
    launches = 0
    x: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        expect(len(x.dims) == 3, f"{x} has no token dimension")
        return (TensorType(dtype=x.dtype, dims=(x.dims[0], x.dims[2])),)


class Heads(Op):
    """``[B,T,n·D]`` seen as ``[B,T,n,D]``."""

    mnemonic = "heads"
    launches = 0
    x: Value
    n: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        width = x.dims[-1]
        fits = isinstance(width, int) and width % self.n == 0
        expect(fits, f"{x} is not made of {self.n} heads")
        return (x.with_last(self.n, int(width) // self.n),)
