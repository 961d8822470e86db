"""Attention residuals: what a sublayer reads is a mixture of the residual stream as it
is and as it was, of which snapshots ``[B,T,N,E]`` are kept from layer to layer."""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.types import TensorType


def _snapshots(types: Types) -> TensorType:
    """Check that snapshots are of the stream x, and return their type."""
    x, kept = types["x"], types["snapshots"]
    wanted = TensorType(dtype=x.dtype, dims=(*x.dims[:2], "N", x.dims[-1]))
    expect(kept == wanted, f"snapshots {kept} are not {wanted}")
    return kept


class NoSnapshots(Op):
    """No snapshot of a stream ``[B,T,E]``, which the first layer receives."""

    mnemonic = "no_snapshots"
    x: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        expect(len(x.dims) == 3, f"{x} is not [B,T,width]")
        return (TensorType(dtype=x.dtype, dims=(*x.dims[:2], "N", x.dims[-1])),)

    def flops(self, types: Types, call: Call) -> int:
        """Return 0."""
        return 0

    def nbytes(self, types: Types, call: Call) -> int:
        """Return 0: there is nothing to move."""
        return 0


class Snapshot(Op):
    """The snapshots and x after them."""

    mnemonic = "snapshot"
    snapshots: Value
    x: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (_snapshots(types),)


class MixSnapshots(Op):
    """Σ pⱼ rowⱼ, the rows being the snapshots and x, p the softmax over them of
    weight · rms_norm(rowⱼ), in fp32. ``norm`` is the norm's weight, ``weight``
    ``[1,E]``."""

    mnemonic = "mix_snapshots"
    snapshots: Value
    x: Value
    norm: Param
    weight: Param
    eps: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        _snapshots(types)
        x, norm, weight = types["x"], types["norm"], types["weight"]
        expect(norm.dims == x.dims[-1:], f"norm {norm} does not fit {x}")
        expect(weight.dims == (1, x.dims[-1]), f"{weight} is not a row for {x}")
        return (x,)

    def flops(self, types: Types, call: Call) -> int:
        """Count norm, score and mixture of x and of one snapshot."""
        return 16 * call.size(types["x"].dims)
