"""Hyper-connections (arXiv:2409.19606): residual streams ``[B,T,N,E]`` side by side,
of which every sublayer reads a mixture and to which what it makes is handed out.

How much is a matter of the token: the coefficients are linear maps, in fp32, of all its
streams together.
"""

from typing import ClassVar

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.ops.streams import streams_of
from glmc.ir.types import TensorType


def _maps(types: Types, rows: int, scales: int) -> None:
    """Check the maps of all streams of a token to its coefficients."""
    count, width = streams_of(types["x"])
    wanted = {
        "fn": (rows, count * width),
        "base": (rows,),
        "scale": (scales,),
    }
    for name, dims in wanted.items():
        fits = types[name] == TensorType(dtype="f32", dims=dims)
        expect(fits, f"{name} {types[name]} is not f32{list(dims)}")


class RepeatStreams(Op):
    """``[B,T,E]`` to ``count`` streams that are all x."""

    mnemonic = "repeat_streams"
    is_view = True
    x: Value
    count: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        expect(len(x.dims) == 3 and self.count > 0, f"{x} is not [B,T,width]")
        return (x.with_last(self.count, x.dims[-1]),)


class HyperRead(Op):
    """Of streams the mixture that a sublayer reads, and how what it makes comes back.

    With m = fn x · scale + base, of all streams of a token over their root mean square
    (``norm_eps``): h = Σ (sigmoid(m₁) + ``eps``) xₙ; post = ``reach`` · sigmoid(m₂) +
    ``floor``; and with ``iterations`` comb, a matrix softmax(m₃) + ``eps`` whose
    columns, and then so many times less one rows and columns, are divided by their sum
    + ``eps`` (Sinkhorn). fn has a row for each of these numbers, scale a number for
    each m.
    """

    mnemonic = "hyper_read"
    exact: ClassVar[tuple[str, ...]] = ("fn", "base", "scale")
    x: Value
    fn: Param
    base: Param
    scale: Param
    eps: float
    norm_eps: float
    iterations: int = 0
    reach: float = 2.0
    floor: float = 0.0

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        count, width = streams_of(x)
        mixes = self.iterations > 0
        _maps(types, (2 + count * mixes) * count, 2 + mixes)
        h = TensorType(dtype=x.dtype, dims=(*x.dims[:2], width))
        post = TensorType(dtype="f32", dims=(*x.dims[:2], count))
        return (h, post, post.with_last(count, count)) if mixes else (h, post)

    def flops(self, types: Types, call: Call) -> int:
        """Count the products of the maps, and the mixture."""
        rows = int(types["fn"].dims[0])
        return 2 * call.size(types["x"].dims) * (rows + 1)


class HyperWrite(Op):
    """post[n] · y + Σₘ comb[m,n] · x[m] for each stream n, rounded once; without comb
    post[n] · y + x[n]."""

    mnemonic = "hyper_write"
    x: Value
    y: Value
    post: Value
    comb: Value | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, y, post, comb = (types.get(n) for n in ("x", "y", "post", "comb"))
        assert x
        assert y
        count, width = streams_of(x)
        expect(y.dims == (*x.dims[:2], width), f"{y} is no stream of {x}")
        wanted = TensorType(dtype="f32", dims=(*x.dims[:2], count))
        expect(post == wanted, f"{post} is not {wanted}")
        fits = not comb or comb == wanted.with_last(count, count)
        expect(fits, f"{comb} does not mix the streams of {x}")
        return (x,)

    def flops(self, types: Types, call: Call) -> int:
        """Count a multiply-add for each element and stream that it is made of."""
        each = int(types["x"].dims[2]) if "comb" in types else 1
        return 2 * call.size(types["x"].dims) * (each + 1)


class HyperHead(Op):
    """Streams to ``[B,T,E]``: the mixture of :class:`HyperRead` alone."""

    mnemonic = "hyper_head"
    exact: ClassVar[tuple[str, ...]] = ("fn", "base", "scale")
    x: Value
    fn: Param
    base: Param
    scale: Param
    eps: float
    norm_eps: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        count, width = streams_of(x)
        _maps(types, count, 1)
        return (TensorType(dtype=x.dtype, dims=(*x.dims[:2], width)),)

    def flops(self, types: Types, call: Call) -> int:
        """Count the products of the map, and the mixture."""
        return 2 * call.size(types["x"].dims) * (int(types["fn"].dims[0]) + 1)


class MeanStreams(Op):
    """Streams to their mean ``[B,T,E]``."""

    mnemonic = "mean_streams"
    x: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        _, width = streams_of(x)
        return (TensorType(dtype=x.dtype, dims=(*x.dims[:2], width)),)
