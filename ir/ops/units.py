"""Recurrent units: gates of blocks, token shifts, and the scans that neither ``scan``
nor ``selective_scan`` is."""

from typing import Any

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, Writes, expect
from glmc.ir.ops.recurrent import touched
from glmc.ir.placing import ByHead
from glmc.ir.state import RowType
from glmc.ir.types import TensorType, Type


class BlockLinear(Op):
    """x_h W_h + b_h for each of n equal parts of x.

    ``weight`` is ``[n, in, out]``, ``bias`` ``[n, out]``; x has n · in channels.
    """

    mnemonic = "block_linear"
    placing = ByHead(("x",), ("weight", "bias"))
    multiplies = True
    x: Value
    weight: Param
    bias: Param | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight, bias = types["x"], types["weight"], types.get("bias")
        expect(len(weight.dims) == 3, f"{weight} is no stack of matrices")
        parts, read, made = map(int, weight.dims)
        expect(x.dims[-1] == parts * read, f"{weight} does not read {x}")
        fits = not bias or bias.dims == (parts, made)
        expect(fits, f"bias {bias} does not fit {weight}")
        return (TensorType(dtype=x.dtype, dims=(*x.dims[:-1], parts * made)),)

    def flops(self, types: Types, call: Call) -> int:
        """Count a multiply-add for each element of a matrix and each token."""
        read = int(types["weight"].dims[1])
        return 2 * read * call.size(self.tensors[0].type.dims)


class LruScan(Op):
    """A linear recurrence of each channel, gated by the token (RG-LRU,
    arXiv:2402.19427).

    ``a = exp(-power · sigmoid(r) · softplus(rate))`` and ``h = a · h + sqrt(1 - a²) ·
    sigmoid(i) · x``, all in fp32; at a row's first token h is ``sigmoid(i) · x``. All
    are ``[B,T,C]``, ``rate`` is ``[C]``. With ``opened`` the result is h, rounded and
    multiplied by that.
    """

    mnemonic = "lru_scan"
    placing = ByHead(("x", "i", "r", "opened"), ("rate", "state"), "x")
    exact = ("rate",)
    x: Value
    i: Value
    r: Value
    rate: Param
    state: Writes
    opened: Value | None = None
    power: float = 8.0

    def infer(self, types: Any) -> tuple[Type, ...]:
        x, state = types["x"], types["state"]
        for name in ("i", "r"):
            expect(types[name].dims == x.dims, f"gates {types[name]} are not of {x}")
        expect(types["rate"].dims == x.dims[-1:], f"{types['rate']} is not of {x}")
        opened = types.get("opened", x)
        expect(opened == x, f"what opens, {opened}, is not as {x}")
        wanted = RowType(sizes=(int(x.dims[-1]),), dtype="f32")
        expect(state == wanted, f"state {state} must be {wanted}")
        return (x, state)

    def flops(self, types: Any, call: Call) -> int:
        """Count gates, decay, root and the recurrence for each element."""
        return 12 * call.size(types["x"].dims)

    def nbytes(self, types: Any, call: Call) -> int:
        """Count the operands, the result, and the state read and written once."""
        return super().nbytes(types, call) + touched(types["state"], types, call)


class TokenShift(Op):
    """The token before each token of x; before a row's first, zeros.

    ``state`` is the last token of the calls before.
    """

    mnemonic = "token_shift"
    x: Value
    state: Writes

    def infer(self, types: Any) -> tuple[Type, ...]:
        x, state = types["x"], types["state"]
        fits = isinstance(state, RowType) and state.dims == x.dims[-1:]
        expect(fits, f"state {state} does not hold a token of {x}")
        return (x, state)

    def flops(self, types: Any, call: Call) -> int:
        """Return 0: tokens are copied."""
        return 0

    def nbytes(self, types: Any, call: Call) -> int:
        """Count the tokens, read and written, and the state."""
        return super().nbytes(types, call) + touched(types["state"], types, call)


class Blend(Op):
    """weight · x + (1 - weight) · y, channel by channel."""

    mnemonic = "blend"
    x: Value
    y: Value
    weight: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight = types["x"], types["weight"]
        expect(types["y"] == x, f"{types['y']} cannot be blended with {x}")
        expect(weight.dims == x.dims[-1:], f"{weight} has not the channels of {x}")
        return (x,)

    def flops(self, types: Types, call: Call) -> int:
        """Count two products and a sum for each element."""
        return 3 * call.size(types["x"].dims)


class WkvScan(Op):
    """A mean of values that favours near tokens, of each channel by itself (RWKV-4,
    arXiv:2305.13048), in fp32.

    At token t the value of token s weighs ``exp(k[s] - (t - 1 - s) · exp(rate))``, and
    that of t itself ``exp(k[t] + first)``. ``state`` ``f32[3,C]`` are the weighted sum
    of values, the sum of weights, and the exponent that both are relative to. With
    ``opened`` the mean, rounded, is multiplied by its sigmoid.
    """

    mnemonic = "wkv_scan"
    placing = ByHead(("k", "v", "opened"), ("rate", "first"), "v", second=("state",))
    exact = ("rate", "first")
    k: Value
    v: Value
    rate: Param
    first: Param
    state: Writes
    opened: Value | None = None

    def infer(self, types: Any) -> tuple[Type, ...]:
        k, v, state = types["k"], types["v"], types["state"]
        expect(k.dims == v.dims, f"keys {k} are not of values {v}")
        for name in ("rate", "first"):
            fits = types[name].dims == v.dims[-1:]
            expect(fits, f"{types[name]} has not the channels of {v}")
        opened = types.get("opened", v)
        expect(opened == v, f"what opens, {opened}, is not as {v}")
        wanted = RowType(sizes=(3, int(v.dims[-1])), dtype="f32")
        expect(state == wanted, f"state {state} must be {wanted}")
        return (v, state)

    def flops(self, types: Any, call: Call) -> int:
        """Count both means for each element: exponents, products and sums."""
        return 16 * call.size(types["v"].dims)

    def nbytes(self, types: Any, call: Call) -> int:
        """Count the operands, the result, and the state read and written once."""
        return super().nbytes(types, call) + touched(types["state"], types, call)


class MemoryScan(Op):
    """A recurrence of each head whose gates are exponential (mLSTM, arXiv:2405.04517),
    its state a matrix and a normaliser in fp32.

    ``S = sigmoid(f) · S + exp(i) · k ⊗ [v, 1]`` and ``[y, n] = scale · Sᵀ q``, both
    divided by c, the largest factor that any token has in S by now, or the 1 that S
    begins with; the result is ``y / (max(|n|, 1 / c) + eps)``. ``state`` is S / c, and
    ``most`` the logarithm of c. q and k are ``[B,T,H,Dk]``, v ``[B,T,H,Dv]``, i and f
    ``[B,T,H]``.
    """

    mnemonic = "memory_scan"
    placing = ByHead(tuple("qkvif"), ("state", "most"), "v")
    q: Value
    k: Value
    v: Value
    i: Value
    f: Value
    state: Writes
    most: Writes
    scale: float = 1.0
    eps: float = 0.0

    def infer(self, types: Any) -> tuple[Type, ...]:
        q, k, v = (types[name] for name in "qkv")
        expect(len(k.dims) == 4 and q.dims == k.dims, f"q {q} is not k {k}")
        expect(len(v.dims) == 4, f"v {v} must be of heads")
        expect(v.dims[:3] == k.dims[:3], f"k {k} has not the heads of v {v}")
        for name in "if":
            fits = types[name].dims == v.dims[:3]
            expect(fits, f"gates {types[name]} are not of the heads of {v}")
        heads, k_dim, v_dim = int(v.dims[2]), int(k.dims[3]), int(v.dims[3])
        wanted = RowType(sizes=(heads, k_dim, v_dim + 1), dtype="f32")
        expect(types["state"] == wanted, f"state {types['state']} must be {wanted}")
        most = RowType(sizes=(heads,), dtype="f32")
        expect(types["most"] == most, f"state {types['most']} must be {most}")
        dims = (*v.dims[:2], heads * v_dim)
        return (TensorType(dtype=v.dtype, dims=dims),)

    def flops(self, types: Any, call: Call) -> int:
        """Count decay, write and read for each element of the state and each token."""
        return 5 * call.batch * call.tokens * int(types["state"].elements())

    def nbytes(self, types: Any, call: Call) -> int:
        """Count the operands, the result, and the states read and written once."""
        kept = sum(touched(types[name], types, call) for name in ("state", "most"))
        return super().nbytes(types, call) + kept
