"""Recurrent ops: short convolutions and scans, which carry a state from token to
token."""

from typing import Any, Literal

from glmc.ir.activations import ActivationName
from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, Writes, expect
from glmc.ir.ops.norms import RMS_FLOPS, WeightIn
from glmc.ir.placing import EACH, NORM, ByHead, Grouped, Pointwise, Selective
from glmc.ir.state import RowType
from glmc.ir.types import TensorType, Type


class ShortConv(Op):
    """y[t] = fn(bias + Σ_j weight[j] · x[t - W + 1 + j]), of each channel by itself.

    Causal: ``state`` holds the last ``W`` tokens, zeros before the first, as a ring:
    that in slot s of the cache lies in column s mod W, so that a step writes a column
    which it does not read. ``weight`` is ``[channels, W]``, its last column for the
    newest token.
    """

    mnemonic = "short_conv"
    placing = ByHead(("x",), ("weight", "bias", "state"), "x")
    x: Value
    weight: Param
    state: Writes
    bias: Param | None = None
    fn: ActivationName | None = None

    def infer(self, types: Any) -> tuple[Type, ...]:
        x, weight, state = types["x"], types["weight"], types["state"]
        expect(weight.dims[:1] == x.dims[-1:], f"{weight} has not the channels of {x}")
        channels, width = weight.dims
        fits = isinstance(state, RowType) and state.dims == (channels, width)
        expect(fits, f"state {state} must be [{channels},{width}] per row")
        bias = types.get("bias")
        expect(not bias or bias.dims == x.dims[-1:], f"bias {bias} does not fit {x}")
        return (x, state)

    def flops(self, types: Any, call: Call) -> int:
        """Count a multiply-add for each column of the window."""
        return 2 * call.size(types["x"].dims) * int(types["weight"].dims[1])

    def nbytes(self, types: Any, call: Call) -> int:
        """Count the operands, the result, and the state read and written once."""
        return super().nbytes(types, call) + touched(types["state"], types, call)


class Scan(Op):
    """A linear recurrence of each head over tokens, its state a matrix in fp32.

    ``S = exp(g) · S + k ⊗ u`` and ``y = scale · Sᵀ q``, where u is v: the recurrence of
    Mamba-2 (arXiv:2405.21060). With ``beta`` u is ``beta · (v - (exp(g) · S)ᵀ k)``, the
    gated delta rule (arXiv:2412.06464): what is kept at k is corrected, not added to.

    ``g`` has a number of each head, ``[B,T,H]``, or of each channel of a key,
    ``[B,T,H,Dk]`` (Kimi Delta Attention). Of ``n`` heads of v, H / G in turn share one
    of the G heads of q and k.
    """

    mnemonic = "scan"
    placing = ByHead(("q", "k", "v", "g", "beta"), ("state",), "v")
    q: Value
    k: Value
    v: Value
    g: Value
    state: Writes
    beta: Value | None = None
    scale: float = 1.0

    def infer(self, types: Any) -> tuple[Type, ...]:
        q, k, v, g, state = (types[name] for name in ("q", "k", "v", "g", "state"))
        expect(len(k.dims) == 4 and q.dims == k.dims, f"q {q} is not k {k}")
        expect(len(v.dims) == 4, f"v {v} must be of heads")
        heads, k_dim, v_dim = int(v.dims[2]), int(k.dims[3]), int(v.dims[3])
        shared = heads % int(k.dims[2]) == 0
        expect(shared, f"{k.dims[2]} heads of k do not serve {heads} of v")
        decays = (v.dims[:3], (*v.dims[:3], k_dim))
        expect(g.dims in decays, f"g {g} is neither of heads nor of channels of a key")
        beta = types.get("beta")
        expect(not beta or beta.dims == v.dims[:3], f"beta {beta} is not of heads")
        wanted = RowType(sizes=(heads, k_dim, v_dim), dtype="f32")
        expect(state == wanted, f"state {state} must be {wanted}")
        y = TensorType(dtype=v.dtype, dims=(*v.dims[:2], heads * v_dim))
        return (y, state)

    def flops(self, types: Any, call: Call) -> int:
        """Count, for each element of the state and each token: decay, write, read; with
        beta also the read of the value to correct."""
        each = 7 if self.beta else 5
        return each * call.batch * call.tokens * int(types["state"].elements())

    def nbytes(self, types: Any, call: Call) -> int:
        """Count the operands, the result, and the state read and written once."""
        return super().nbytes(types, call) + touched(types["state"], types, call)


class SelectiveScan(Op):
    """A linear recurrence of each channel over tokens, its state N numbers in fp32.

    ``S = exp(-exp(a_log) · step) · S + step · v · k`` and ``y = S · q + skip · v``: the
    recurrence of Mamba (arXiv:2312.00752). ``v`` and ``step`` are ``[B,T,I]``,
    ``a_log`` ``[I,N]``; keys and queries are ``[B,T,G·N]``, each N for one of G equal
    parts of the channels. With ``bias`` steps are made of ``step`` as by ``step_size``;
    with ``opened`` y, rounded, is multiplied by it.
    """

    mnemonic = "selective_scan"
    placing = Selective(
        ("v", "step", "opened"), ("a_log", "skip", "state", "bias"), "v"
    )
    exact = ("a_log", "skip", "bias")
    v: Value
    step: Value
    k: Value
    q: Value
    a_log: Param
    skip: Param
    state: Writes
    bias: Param | None = None
    opened: Value | None = None

    def infer(self, types: Any) -> tuple[Type, ...]:
        v, k, a_log = types["v"], types["k"], types["a_log"]
        expect(types["step"].dims == v.dims, f"steps {types['step']} are not of {v}")
        expect(types["q"].dims == k.dims, f"q {types['q']} is not k {k}")
        wanted = (v.dims[-1], a_log.dims[-1])
        parts, rest = divmod(int(k.dims[-1]), int(a_log.dims[-1]))
        whole = parts > 0 and not rest and int(v.dims[-1]) % parts == 0
        fits = whole and a_log.dims == wanted
        expect(fits, f"{a_log} has not the channels of {v} and {k}")
        fits = types["skip"].dims == v.dims[-1:]
        expect(fits, f"{types['skip']} is not of the channels of {v}")
        bias, opened = types.get("bias"), types.get("opened", v)
        expect(not bias or bias.dims == v.dims[-1:], f"bias {bias} does not fit {v}")
        expect(opened == v, f"what opens, {opened}, is not as {v}")
        state = RowType(sizes=(int(wanted[0]), int(wanted[1])), dtype="f32")
        expect(types["state"] == state, f"state {types['state']} must be {state}")
        return (v, state)

    def flops(self, types: Any, call: Call) -> int:
        """Count for each number kept and each token: decay, write and read."""
        return 6 * call.batch * call.tokens * int(types["state"].elements())

    def nbytes(self, types: Any, call: Call) -> int:
        """Count the operands, the result, and the state read and written once."""
        return super().nbytes(types, call) + touched(types["state"], types, call)


def touched(state: Any, types: Any, call: Call) -> int:
    """Return the bytes of a state that is read and written once in every row."""
    dtype = next(t.dtype for t in types.values() if isinstance(t, TensorType))
    return 2 * call.kept(state, dtype)


class L2Normalize(Op):
    """x / sqrt(Σ x² + eps) over the last dimension, in fp32, which the result is."""

    mnemonic = "l2_normalize"
    placing = NORM
    x: Value
    eps: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (TensorType(dtype="f32", dims=types["x"].dims),)

    def flops(self, types: Types, call: Call) -> int:
        """Count square, sum and product of each element."""
        return 3 * call.size(types["x"].dims)


class StepSize(Op):
    """softplus(x + bias) within ``low`` and ``high``, in fp32: how far a state moves on
    with a token."""

    mnemonic = "step_size"
    placing = EACH
    exact = ("bias",)
    x: Value
    bias: Param | None = None
    low: float = 0.0
    high: float | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, bias = types["x"], types.get("bias")
        expect(not bias or bias.dims == x.dims[-1:], f"bias {bias} does not fit {x}")
        return (TensorType(dtype="f32", dims=x.dims),)

    def flops(self, types: Types, call: Call) -> int:
        """Count the sum and the softplus, as one operation each."""
        return 2 * call.size(types["x"].dims)


class Decay(Op):
    """g = -exp(a_log) · step, in fp32: the logarithm of what is left of a state.

    ``a_log`` has a number for each head, ``step`` one for each head or, as
    ``[B,T,H·Dk]``, for each channel of the keys; then g is ``[B,T,H,Dk]``.
    """

    mnemonic = "decay"
    placing = Pointwise(over=("step",))
    exact = ("a_log",)
    step: Value
    a_log: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (_by_head(types["step"], types["a_log"]),)


class BoundedDecay(Op):
    """g = floor · sigmoid(exp(a_log) · (x + bias)), in fp32: the logarithm of what is
    left of a state, which is never below ``floor``.

    ``a_log`` has a number for each head, x one for each or, as ``[B,T,H·Dk]``, for each
    channel of the keys; then g is ``[B,T,H,Dk]``.
    """

    mnemonic = "bounded_decay"
    placing = EACH
    exact = ("bias", "a_log")
    x: Value
    a_log: Param
    bias: Param | None = None
    floor: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, a_log, bias = types["x"], types["a_log"], types.get("bias")
        expect(not bias or bias.dims == x.dims[-1:], f"bias {bias} does not fit {x}")
        return (_by_head(x, a_log),)

    def flops(self, types: Types, call: Call) -> int:
        """Count sum, product, sigmoid and product of each element."""
        return 4 * call.size(types["x"].dims)


class SteadyDecay(Op):
    """g = -scale · 2^(-reach · (h + 1) / heads) for head h of every token of x, in
    fp32; with ``factors``, ``f32[1,1,n]``, times number ``at`` of them."""

    mnemonic = "steady_decay"
    x: Value
    heads: int
    reach: float = 8.0
    scale: float = 1.0
    factors: Value | None = None
    at: int = 0

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, factors = types["x"], types.get("factors")
        fits = not factors or (
            factors.dims[:2] == (1, 1) and 0 <= self.at < int(factors.dims[2])
        )
        expect(fits, f"{factors} has no factor {self.at}")
        expect(self.heads > 0, "a decay must be of heads")
        return (TensorType(dtype="f32", dims=(*x.dims[:2], self.heads)),)


def _by_head(x: TensorType, a_log: TensorType) -> TensorType:
    """Return the type of decays, of heads or of the channels of their keys."""
    heads, width = int(a_log.dims[0]), int(x.dims[-1])
    fits = len(a_log.dims) == 1 and width % heads == 0
    expect(fits, f"{a_log} has not the heads of {x}")
    dims = (heads,) if width == heads else (heads, width // heads)
    return TensorType(dtype="f32", dims=(*x.dims[:-1], *dims))


class Sigmoid(Op):
    """factor · sigmoid(x)."""

    mnemonic = "sigmoid"
    placing = EACH
    x: Value
    factor: float = 1.0

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)


class ScaleEach(Op):
    """x · factor in fp32, which the result is: a number for each head of x,
    ``[B,T,n,D]``, in each token."""

    mnemonic = "scale_each"
    placing = Pointwise(over=("x", "factor"))
    x: Value
    factor: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, factor = types["x"], types["factor"]
        expect(x.dims[:-1] == factor.dims, f"{factor} is not of the heads of {x}")
        return (TensorType(dtype="f32", dims=x.dims),)


class AddSkip(Op):
    """y + weight · x in fp32, rounded to x's dtype: past a scan, with a number for each
    head of x, ``[B,T,n,D]``."""

    mnemonic = "add_skip"
    placing = Pointwise(over=("y", "x"))
    exact = ("weight",)
    y: Value
    x: Value
    weight: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        y, x, weight = types["y"], types["x"], types["weight"]
        heads, width = int(x.dims[-2]), int(x.dims[-1])
        expect(weight.dims == (heads,), f"{weight} is not of the heads of {x}")
        expect(y.dims == (*x.dims[:-2], heads * width), f"{y} does not fit {x}")
        return (TensorType(dtype=x.dtype, dims=y.dims),)

    def flops(self, types: Types, call: Call) -> int:
        """Count a multiply-add for each element."""
        return 2 * call.size(types["x"].dims)


class GatedNorm(Op):
    """An RMSNorm of ``groups`` equal parts of x, with a gate fn(z), in fp32; with
    ``centred`` a LayerNorm.

    ``norm_first``: norm(x) · weight · fn(z). ``gate_first``: norm(x · fn(z)) · weight.
    The weight has a number for each channel of x, or of a part. ``weight_in`` is that
    of :class:`RmsNorm`: whether the normed is rounded before the weight multiplies it.
    """

    mnemonic = "gated_norm"
    placing = Grouped(over=("x", "z"))
    x: Value
    z: Value
    weight: Param
    eps: float
    fn: Literal["silu", "sigmoid"]
    order: Literal["norm_first", "gate_first"] = "norm_first"
    groups: int = 1
    weight_in: WeightIn = "input"
    centred: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, z, weight = types["x"], types["z"], types["weight"]
        expect(x.dims == z.dims, f"gates {z} do not fit {x}")
        width = int(x.dims[-1])
        expect(width % self.groups == 0, f"{x} is not made of {self.groups} parts")
        fits = weight.dims in ((width,), (width // self.groups,))
        expect(fits, f"{weight} has neither the channels of {x} nor of its parts")
        return (z,)

    def flops(self, types: Types, call: Call) -> int:
        """Count the norm, see ``RMS_FLOPS``, the activation and the product."""
        return (RMS_FLOPS + 2) * call.size(types["x"].dims)
