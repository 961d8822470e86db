"""Several residual streams side by side, ``[B,T,N,E]`` (AltUp, arXiv:2301.13310).

The first one is what the model embeds and what it answers from; a layer works on one of
them and the others follow.
"""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.types import TensorType


def streams_of(x: TensorType) -> tuple[int, int]:
    """Return the number of streams, and their width."""
    expect(len(x.dims) == 4, f"{x} does not hold streams, [B,T,streams,width]")
    return int(x.dims[2]), int(x.dims[3])


def _stacked(types: Types, count: int, width: int) -> None:
    weight = types["weight"]
    fits = weight.dims == (count - 1, width, width)
    expect(fits, f"{weight} is no matrix for each stream but the first of {count}")


class SpreadStreams(Op):
    """``[B,T,E]`` to streams: x, and for each matrix W x, as long as x.

    As long: W x times the root mean square of x, divided by its own, which counts as at
    least the root of 1e-5.
    """

    mnemonic = "spread_streams"
    multiplies = True
    x: Value
    weight: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight = types["x"], types["weight"]
        expect(len(x.dims) == 3, f"{x} is not [B,T,width]")
        expect(len(weight.dims) == 3, f"weight must have 3 dims, not {weight}")
        count, width = int(weight.dims[0]) + 1, int(x.dims[2])
        _stacked(types, count, width)
        return (x.with_last(count, width),)

    def flops(self, types: Types, call: Call) -> int:
        """Count a product for each stream but the first."""
        rows = call.size(types["weight"].dims[:2])
        return 2 * call.size(types["x"].dims) * rows


class GatherStreams(Op):
    """Streams to ``[B,T,E]``: the mean of the first one and of W x of each other one,
    as long as the first; see :class:`SpreadStreams`."""

    mnemonic = "gather_streams"
    multiplies = True
    x: Value
    weight: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        count, width = streams_of(x)
        _stacked(types, count, width)
        return (TensorType(dtype=x.dtype, dims=(*x.dims[:2], width)),)

    def flops(self, types: Types, call: Call) -> int:
        """Count a product for each stream but the first."""
        tokens = call.size(types["x"].dims[:2])
        return 2 * tokens * call.size(types["weight"].dims)


class MixStreams(Op):
    """x + C x, with C ``[N,N]`` for each token: row n of C says what stream n gets of
    every stream. ``coefs`` is ``[B,T,N · N]``."""

    mnemonic = "mix_streams"
    x: Value
    coefs: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, coefs = types["x"], types["coefs"]
        count, _ = streams_of(x)
        fits = coefs.dims == (*x.dims[:2], count * count)
        expect(fits, f"{coefs} are not coefficients for {count} streams")
        return (x,)

    def flops(self, types: Types, call: Call) -> int:
        """Count a multiply-add for each element and each stream."""
        return 2 * call.size(types["x"].dims) * int(types["x"].dims[2])


class Stream(Op):
    """``[B,T,N,E]`` to one stream ``[B,T,E]``, a view."""

    mnemonic = "stream"
    is_view = True
    x: Value
    at: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        count, width = streams_of(x)
        expect(0 <= self.at < count, f"{x} has no stream {self.at}")
        return (TensorType(dtype=x.dtype, dims=(*x.dims[:2], width)),)


class CorrectStreams(Op):
    """x + (1 + coefs) · (y - x[at]): every stream follows what y changed of one.

    ``y`` is ``[B,T,E]``, ``coefs`` ``[B,T,N]``.
    """

    mnemonic = "correct_streams"
    x: Value
    y: Value
    coefs: Value
    at: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, y, coefs = types["x"], types["y"], types["coefs"]
        count, width = streams_of(x)
        expect(0 <= self.at < count, f"{x} has no stream {self.at}")
        expect(y.dims == (*x.dims[:2], width), f"{y} is no stream of {x}")
        fits = coefs.dims == (*x.dims[:2], count)
        expect(fits, f"{coefs} are not coefficients for {count} streams")
        return (x,)


class AddToOthers(Op):
    """Streams with y ``[B,T,E]`` added to all but the first."""

    mnemonic = "add_to_others"
    x: Value
    y: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, y = types["x"], types["y"]
        _, width = streams_of(x)
        expect(y.dims == (*x.dims[:2], width), f"{y} is no stream of {x}")
        return (x,)
