"""Mixers between their projections, as one op."""

from typing import Any, Literal

from glmc.ir.activations import ActivationName
from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Value, Writes, expect
from glmc.ir.ops.norms import RMS_FLOPS, WeightIn
from glmc.ir.ops.recurrent import touched
from glmc.ir.placing import ByHead
from glmc.ir.state import RowType
from glmc.ir.types import TensorType, Type

_DEALT = (
    *("conv_q", "conv_k", "conv_v", "bias_q", "bias_k", "bias_v"),
    *("kept_q", "kept_k", "kept_v", "state", "a_log", "dt_bias", "skip"),
)
"""The operands with something for each head or channel, along their first dimension."""


class Mix(Op):
    """A scan with all that stands between it and the projections of a mixer.

    ``short_conv`` of q, k and v; ``l2_normalize`` of q and k; of ``step``
    ``step_size`` and ``decay``, or with a ``floor`` ``bounded_decay``; with ``steps``
    ``scale_each`` of v; ``scan``, with the ``sigmoid`` of ``beta``; ``add_skip``; with
    ``norm`` the ``gated_norm`` of each head.
    """

    mnemonic = "mix"
    placing = ByHead(
        values=("q", "k", "v", "step", "beta", "z"), first=_DEALT, norms=("norm",)
    )
    exact = ("a_log", "dt_bias", "skip")
    q: Value
    k: Value
    v: Value
    step: Value
    conv_q: Param
    conv_k: Param
    conv_v: Param
    a_log: Param
    kept_q: Writes
    kept_k: Writes
    kept_v: Writes
    state: Writes
    bias_q: Param | None = None
    bias_k: Param | None = None
    bias_v: Param | None = None
    dt_bias: Param | None = None
    beta: Value | None = None
    skip: Param | None = None
    z: Value | None = None
    norm: Param | None = None
    fn: ActivationName | None = None
    l2_eps: float | None = None
    low: float = 0.0
    high: float | None = None
    floor: float | None = None
    steps: bool = False
    factor: float = 1.0
    scale: float = 1.0
    eps: float | None = None
    gate: Literal["silu", "sigmoid"] = "silu"
    order: Literal["norm_first", "gate_first"] = "norm_first"
    weight_in: WeightIn = "input"

    def infer(self, types: Any) -> tuple[Type, ...]:
        q, v, state = types["q"], types["v"], types["state"]
        one = isinstance(state, RowType) and len(state.sizes) == 3
        expect(one and state.dtype == "f32", f"state {state} is not that of a scan")
        heads, k_dim, v_dim = state.sizes
        expect(v.dims[-1] == heads * v_dim, f"v {v} does not fill {state}")
        groups, rest = divmod(int(q.dims[-1]), k_dim)
        fits = types["k"].dims == q.dims and not rest and heads % groups == 0
        expect(fits, f"q {q} and k {types['k']} do not serve {state}")
        step = int(types["step"].dims[-1])
        expect(step in (heads, heads * k_dim), f"steps {types['step']} are of no heads")
        for name in "qkv":
            self._check_conv(types, name)
        gated = [types.get("z"), types.get("norm"), self.eps]
        expect(all(gated) or not any(gated), "z, norm and eps go together")
        return (TensorType(dtype=v.dtype, dims=v.dims),)

    def _check_conv(self, types: Any, name: str) -> None:
        x, weight = types[name], types[f"conv_{name}"]
        kept, bias = types[f"kept_{name}"], types.get(f"bias_{name}")
        expect(weight.dims[:1] == x.dims[-1:], f"{weight} has not the channels of {x}")
        fits = isinstance(kept, RowType) and kept.dims == weight.dims
        expect(fits, f"state {kept} does not hold what {weight} reads")
        expect(not bias or bias.dims == x.dims[-1:], f"bias {bias} does not fit {x}")

    def flops(self, types: Any, call: Call) -> int:
        """Count the windows, for each element of the state and each token decay, write
        and read, and the norm."""
        tokens = call.batch * call.tokens
        each = 7 if self.beta else 5
        made = each * tokens * int(types["state"].elements())
        for name in "qkv":
            width = int(types[f"conv_{name}"].dims[1])
            made += 2 * width * call.size(types[name].dims)
        return made + (RMS_FLOPS + 2) * call.size(types["v"].dims) * bool(self.norm)

    def nbytes(self, types: Any, call: Call) -> int:
        """Count the operands, the result, and the states read and written once."""
        return super().nbytes(types, call) + sum(
            touched(types[name], types, call)
            for name in ("kept_q", "kept_k", "kept_v", "state")
        )
