"""Attention over pooled tokens: a window of single ones, and before it entries that
stand for several.

An entry is a mixture of ``every`` tokens, kept once these are complete, in a state such
as ``[512] per 4 tokens``. A row's tokens are counted from its first that is not
padding; entry n holds the tokens from n · every on, and a query sees it from the last
of them on.
"""

import math
from typing import ClassVar

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Reads, Types, Value, Writes, expect
from glmc.ir.ops.attention import check_window
from glmc.ir.ops.latent import vectors
from glmc.ir.placing import ByHead
from glmc.ir.state import RowType, TokenType
from glmc.ir.types import TensorType, Type


def _entries(kept: object) -> TokenType:
    """Check that a state holds a vector for so many tokens, and return its type."""
    entries = vectors(kept)
    expect(entries.every > 1, f"{entries} is not one vector for several tokens")
    return entries


class PoolTokens(Op):
    """Mixtures of ``every`` tokens: Σ softmax(gate + bias) · value over the tokens of
    each window that this call completes, channel by channel, in fp32.

    values ``x`` and ``gates`` are ``[B,T,D]``, ``bias`` ``[every,D]``. With ``overlap``
    windows reach over the one before, too: values and gates are ``[B,T,2D]``, of which
    the first half counts for the window after a token's own. Results: ``[B,N,D]``, and
    the first position of each window ``i64[B,N]``, -1 where it is not complete.

    What the tokens before gave is kept for each row, ``[R, 2 · width]``, values and
    gates side by side: of ``every`` tokens, or twice as many with ``overlap``.
    """

    mnemonic = "pool_tokens"
    exact: ClassVar[tuple[str, ...]] = ("bias",)
    x: Value
    gates: Value
    bias: Param
    pending: Writes
    every: int
    overlap: bool = False

    def infer(self, types: Types) -> tuple[Type, ...]:
        x, gates, bias = types["x"], types["gates"], types["bias"]
        expect(x == gates, f"gates {gates} do not go with values {x}")
        width = int(x.dims[-1])
        wanted = TensorType(dtype="f32", dims=(self.every, width))
        expect(bias == wanted, f"bias {bias} is not {wanted}")
        expect(not self.overlap or width % 2 == 0, f"{x} has no two halves")
        pending: Type = types["pending"]
        rows = self.every * (1 + self.overlap)
        fits = isinstance(pending, RowType) and pending.sizes == (rows, 2 * width)
        expect(fits, f"{pending} is not [{rows},{2 * width}] per row")
        dims = (x.dims[0], "N")
        made = width // (1 + self.overlap)
        pooled = TensorType(dtype=x.dtype, dims=(*dims, made))
        return pooled, TensorType(dtype="i64", dims=dims), pending

    def flops(self, types: Types, call: Call) -> int:
        """Count the sum with the bias, the softmax and the mixture."""
        return 6 * call.size(types["x"].dims)


class PoolWrite(Op):
    """Keep the entries ``[B,N,1,D]`` of complete windows, by their first positions."""

    mnemonic = "pool_write"
    entries: Writes
    x: Value
    at: Value

    def infer(self, types: Types) -> tuple[Type, ...]:
        entries, x, at = _entries(types["entries"]), types["x"], types["at"]
        expect(x.dims[2:] == (1, *entries.sizes), f"{x} does not fit {entries}")
        wanted = TensorType(dtype="i64", dims=x.dims[:2])
        expect(at == wanted, f"positions {at} are not {wanted}")
        return (entries,)


class PoolSelect(Op):
    """The ``top_k`` entries with the highest Σₕ wₕ · relu(qₕ · k · scale), in fp32.

    q is ``[B,T,H,D]``, k the entries of the indexer, w = x Wᵀ · H^-0.5. While there are
    no more than ``top_k``, the selection is empty: all are seen.
    """

    mnemonic = "pool_select"
    exact: ClassVar[tuple[str, ...]] = ("weight",)
    q: Value
    x: Value
    entries: Reads
    weight: Param
    top_k: int
    scale: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, x, weight = types["q"], types["x"], types["weight"]
        entries = _entries(types["entries"])
        fits = len(q.dims) == 4 and q.dims[3:] == entries.sizes
        expect(fits, f"queries {q} do not fit the indexer's entries {entries}")
        wanted = TensorType(dtype="f32", dims=(q.dims[2], x.dims[-1]))
        expect(weight == wanted, f"weight {weight} is not {wanted}")
        return (TensorType(dtype="i64", dims=(*q.dims[:2], "N")),)

    def flops(self, types: Types, call: Call) -> int:
        """Count the product of each query with the entries it may see, and that for
        w."""
        heads, width = map(int, types["q"].dims[2:])
        every = _entries(types["entries"]).every
        pairs = call.batch * heads * call.scores() // every
        return 2 * (pairs * width + call.size(types["x"].dims) * heads)

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the operands, and every entry of the indexer once."""
        entries, dtype = _entries(types["entries"]), types["x"].dtype
        return super().nbytes(types, call) + call.kept(entries, dtype, call.slots())


class PooledAttention(Op):
    """softmax(q kᵀ · scale) k with vectors that are key and value at once, of one head.

    A query ``[B,T,H,D]`` sees the last ``window`` tokens up to its own, and where there
    are ``entries`` those that are complete, or of them a ``selection``. ``sinks`` are a
    logit of each head in the softmax that has no value. Result ``[B,T,H · D]``.
    """

    mnemonic = "pooled_attention"
    placing = ByHead(("q",), ("sinks",))
    multiplies = True
    q: Value
    kv: Reads
    entries: Reads | None = None
    selection: Value | None = None
    sinks: Param | None = None
    scale: float
    window: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, kv = types["q"], vectors(types["kv"])
        heads, width = map(int, q.dims[2:])
        expect((width,) == kv.sizes, f"queries {q} do not fit {kv}")
        check_window(self.window)
        if "entries" in types:
            entries = _entries(types["entries"])
            expect(entries.sizes == kv.sizes, f"{entries} does not fit {kv}")
        selection, sinks = types.get("selection"), types.get("sinks")
        wanted = TensorType(dtype="i64", dims=(*q.dims[:2], "N"))
        expect(not selection or selection == wanted, f"{selection} is not {wanted}")
        fits = not selection or "entries" in types
        expect(fits, "there are no entries to select from")
        expect(not sinks or sinks.dims == (heads,), f"sinks {sinks} do not fit {q}")
        return (TensorType(dtype=q.dtype, dims=(*q.dims[:2], heads * width)),)

    def flops(self, types: Types, call: Call) -> int:
        """Count both products, with every complete entry."""
        heads, width = map(int, types["q"].dims[2:])
        pairs = call.scores(self.window)
        if "entries" in types:
            pairs += call.scores() // _entries(types["entries"]).every
        return 4 * call.batch * heads * width * pairs

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the operands, the window's slots, and every entry once."""
        dtype, kv = types["q"].dtype, vectors(types["kv"])
        seen = call.kept(kv, dtype, call.slots(self.window))
        if "entries" in types:
            seen += call.kept(_entries(types["entries"]), dtype, call.slots())
        return super().nbytes(types, call) + seen


class GroupedLinear(Op):
    """Each of G parts of x times a matrix of its own: ``[G,out,in]`` takes heads
    ``[B,T,H,D]``, which are G · in channels, to ``[B,T,G·out]``."""

    mnemonic = "grouped_linear"
    placing = ByHead(("x",), ("weight",))
    multiplies = True
    x: Value
    weight: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight = types["x"], types["weight"]
        expect(len(weight.dims) == 3, f"weight must have 3 dims, not {weight}")
        groups, out, width = map(int, weight.dims)
        fits = len(x.dims) == 4 and math.prod(map(int, x.dims[2:])) == groups * width
        expect(fits, f"{x} does not multiply {weight}")
        return (TensorType(dtype=x.dtype, dims=(*x.dims[:2], groups * out)),)

    def flops(self, types: Types, call: Call) -> int:
        """Count a multiply-add for each weight and token."""
        tokens = call.size(types["x"].dims[:2])
        return 2 * tokens * call.size(types["weight"].dims)
