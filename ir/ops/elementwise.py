"""Lookups, matrix products, pointwise ops and views."""

from typing import ClassVar, Literal

from glmc.ir.activations import ActivationName
from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.placing import EACH, LINEAR, PRODUCT, SUM, Pointwise, Rule, Sizes, View
from glmc.ir.types import TensorType


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
        """Return 0: rows are copied."""
        return 0

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the ids, and their rows of the table read and written."""
        rows = call.nbytes(self.results[0].type)
        return call.nbytes(types["ids"]) + 2 * rows


class Same(Op):
    """x itself, under another name."""

    mnemonic = "same"
    is_view = True
    x: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class KnownIds(Op):
    """ids, and 0 where an id is ``limit`` or above it."""

    mnemonic = "known_ids"
    ids: Value
    limit: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        expect(types["ids"].dtype == "i64", f"ids must be i64, not {types['ids']}")
        return (types["ids"],)


def product_type(types: Types) -> TensorType:
    """Return the type of x Wᵀ + b from those of ``x``, ``weight`` and perhaps
    ``bias``."""
    x, weight, bias = types["x"], types["weight"], types.get("bias")
    expect(len(weight.dims) == 2, f"weight must have 2 dims, not {weight}")
    expect(x.dims[-1] == weight.dims[1], f"{x} does not multiply {weight}")
    expect(x.dtype == weight.dtype, f"{x} and {weight} differ in dtype")
    if bias:
        expect(bias.dims == weight.dims[:1], f"bias {bias} does not fit {weight}")
    return x.with_last(weight.dims[0])


def product_flops(types: Types, call: Call) -> int:
    """Count a multiply-add for each row of x and each weight."""
    rows = call.size(types["weight"].dims[:1])
    return 2 * call.size(types["x"].dims) * rows


class Linear(Op):
    """y = x Wᵀ + b, with W as ``[out, in]``."""

    mnemonic = "linear"
    placing = PRODUCT
    multiplies = True
    x: Value
    weight: Param
    bias: Param | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (product_type(types),)

    def flops(self, types: Types, call: Call) -> int:
        """See :func:`product_flops`."""
        return product_flops(types, call)


class NormalisedLinear(Op):
    """y = x Wᵀ with the rows of W, ``[out, in]``, divided by their length."""

    mnemonic = "normalised_linear"
    placing = PRODUCT
    x: Value
    weight: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight = types["x"], types["weight"]
        expect(len(weight.dims) == 2, f"weight must have 2 dims, not {weight}")
        expect(x.dims[-1] == weight.dims[1], f"{x} does not multiply {weight}")
        return (x.with_last(weight.dims[0]),)


class _Binary(Op):
    x: Value
    y: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        expect(types["x"] == types["y"], f"{types['x']} is not {types['y']}")
        return (types["x"],)


class Add(_Binary):
    """x + y."""

    mnemonic = "add"
    placing = SUM


class AddBias(Op):
    """x + a learned vector, a number for each channel or each head of ``[B,T,n·D]``."""

    mnemonic = "add_bias"
    placing = EACH
    x: Value
    bias: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, bias = types["x"], types["bias"]
        fits = len(bias.dims) == 1 and int(x.dims[-1]) % int(bias.dims[0]) == 0
        expect(fits, f"{bias} has neither the channels nor the heads of {x}")
        return (x,)


class Mul(_Binary):
    """x · y, element by element."""

    mnemonic = "mul"
    placing = Pointwise(over=("x", "y"))


class Scale(Op):
    """factor · x, rounded to x's dtype.

    ``rounded``: the factor is rounded to x's dtype first, as a tensor would be.
    """

    mnemonic = "scale"
    placing = LINEAR
    x: Value
    factor: float
    rounded: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class ScaleBy(Op):
    """w · x, rounded to x's dtype, with w a learned number, or one for each channel."""

    mnemonic = "scale_by"
    placing = LINEAR
    x: Value
    weight: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight = types["x"], types["weight"]
        fits = weight.dims in ((1,), x.dims[-1:])
        expect(fits, f"weight {weight} is neither one number nor one for each channel")
        return (x,)


class Clamp(Op):
    """min(max(x, -limit), limit)."""

    mnemonic = "clamp"
    placing = EACH
    x: Value
    limit: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class CutBelow(Op):
    """max(0, x - c), c the mean of x's last dimension and ``deviations`` times its
    standard deviation."""

    mnemonic = "cut_below"
    x: Value
    deviations: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class SoftCap(Op):
    """cap · tanh(x / cap): almost x while it is small, and never beyond ± cap."""

    mnemonic = "soft_cap"
    placing = EACH
    x: Value
    cap: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class Gate(Op):
    """x · fn(g): every channel of x has its gate, or every head of ``[B,T,n·D]``."""

    mnemonic = "gate"
    placing = Pointwise(over=("x", "g"), linear="first")
    x: Value
    g: Value
    fn: Literal["sigmoid", "softplus"]

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, g = types["x"], types["g"]
        same = x.dims[:-1] == g.dims[:-1]
        fits = same and int(x.dims[-1]) % int(g.dims[-1]) == 0
        expect(fits, f"gates {g} do not fit {x}")
        return (x,)


class ZerosLike(Op):
    """Zeros of x's type, which the first layer receives as residual."""

    mnemonic = "zeros_like"
    placing: ClassVar[Rule] = Sizes()
    x: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)

    def flops(self, types: Types, call: Call) -> int:
        """Return 0."""
        return 0

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the zeros; x is not read."""
        return call.nbytes(self.results[0].type)


class Activation(Op):
    """fn(x). ``gelu`` is the exact (erf) form, ``gelu_tanh`` its tanh approximation."""

    mnemonic = "activation"
    placing = EACH
    x: Value
    fn: ActivationName

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class Xielu(Op):
    """xIELU (arXiv:2411.13010): above 0 alpha_p · x² + beta · x, else
    alpha_n · (e^min(x, eps) - 1 - x) + beta · x.

    alpha_p is the softplus of its parameter, alpha_n that of its own plus beta.
    """

    mnemonic = "xielu"
    placing = EACH
    x: Value
    alpha_p: Param
    alpha_n: Param
    beta: float
    eps: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        for name in ("alpha_p", "alpha_n"):
            expect(types[name].dims == (1,), f"{name} must be one number")
        return (types["x"],)


class ActMul(Op):
    """fn(gate) · up of a packed ``gate | up``; the two halves are read once."""

    mnemonic = "act_mul"
    placing = Pointwise(over=("gate_up",))
    gate_up: Value
    fn: ActivationName

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        packed = types["gate_up"]
        width = packed.dims[-1]
        expect(isinstance(width, int) and width % 2 == 0, f"{packed} does not halve")
        return (packed.with_last(int(width) // 2),)

    def flops(self, types: Types, call: Call) -> int:
        """Count the activation, as one operation an element, and the product."""
        return 2 * call.size(self.results[0].type.dims)


class ClampedGlu(Op):
    """gate · sigmoid(alpha · gate) · (up + 1), gate at most ``limit``, up within
    ± ``limit``; without alpha min(fn(gate), limit) · up, or with ``cut`` gate
    fn(min(gate, limit)) · up. With ``soft``, in fp32, soft · tanh(gate / soft) ·
    sigmoid(gate) · limit · tanh(up / limit)."""

    mnemonic = "clamped_glu"
    placing = Pointwise(over=("gate", "up"))
    gate: Value
    up: Value
    fn: ActivationName
    limit: float
    alpha: float | None = None
    cut: Literal["activated", "gate"] = "activated"
    soft: float | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        expect(types["gate"] == types["up"], f"{types['gate']} is not {types['up']}")
        return (types["gate"],)


class Split(Op):
    """Views of the last dimension, one per size."""

    mnemonic = "split"
    placing = View(counts=("sizes",))
    is_view = True
    x: Value
    sizes: tuple[int, ...]

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        expect(sum(self.sizes) == x.dims[-1], f"{self.sizes} do not sum to {x}")
        return tuple(x.with_last(size) for size in self.sizes)


class Concat(Op):
    """x and then y, side by side in the last dimension."""

    mnemonic = "concat"
    placing = View(over=("x", "y"))
    x: Value
    y: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, y = types["x"], types["y"]
        fits = x.dims[:-1] == y.dims[:-1] and x.dtype == y.dtype
        expect(fits, f"{y} does not stand beside {x}")
        return (x.with_last(int(x.dims[-1]) + int(y.dims[-1])),)

    def flops(self, types: Types, call: Call) -> int:
        """Return 0: channels are copied."""
        return 0


class FirstToken(Op):
    """``[B,T,E]`` to its first token ``[B,E]``."""

    mnemonic = "first_token"
    is_view = True
    x: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        expect(len(x.dims) == 3, f"{x} has no token dimension")
        return (TensorType(dtype=x.dtype, dims=(x.dims[0], x.dims[2])),)


class Heads(Op):
    """``[B,T,n·D]`` seen as ``[B,T,n,D]``."""

    mnemonic = "heads"
    placing = View(counts=("n",))
    is_view = True
    x: Value
    n: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        width = x.dims[-1]
        fits = isinstance(width, int) and width % self.n == 0
        expect(fits, f"{x} is not made of {self.n} heads")
        return (x.with_last(self.n, int(width) // self.n),)
