"""Sparse attention: an indexer selects the cached tokens that a query may see.

A selection is ``i64[B,T,N]``: slots of the cache, N for each query. With N = 0 nothing
was selected, and a query sees all that attention without a selection would see.
"""

from typing import ClassVar

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Reads, Types, Value, Writes, expect
from glmc.ir.ops.latent import vectors
from glmc.ir.types import TensorType, Type


class NoSelection(Op):
    """The empty selection for ids ``[B,T]``, which the first layer receives."""

    mnemonic = "no_selection"
    ids: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (TensorType(dtype="i64", dims=(*types["ids"].dims, "N")),)


class TokenWrite(Op):
    """Append this call's vectors ``[B,T,1,D]`` to those that are kept: an indexer's
    keys, or what is key and value at once."""

    mnemonic = "token_write"
    kept: Writes
    x: Value

    def infer(self, types: Types) -> tuple[Type, ...]:
        kept, x = vectors(types["kept"]), types["x"]
        expect(x.dims[2:] == (1, *kept.sizes), f"vectors {x} do not fit {kept}")
        return (kept,)

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the vectors, read and written."""
        return 2 * call.nbytes(types["x"])


class IndexSelect(Op):
    """The ``top_k`` slots with the highest Σₕ wₕ · relu(qₕ · k · scale), in fp32.

    q is ``[B,T,H,D]``, k the cached keys of the indexer, w = x Wᵀ · H^-0.5. While no
    more than ``top_k`` slots are filled, the selection is empty: all are seen.
    """

    mnemonic = "index_select"
    exact: ClassVar[tuple[str, ...]] = ("weight",)
    q: Value
    x: Value
    index: Reads
    weight: Param
    top_k: int
    scale: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, x, weight = types["q"], types["x"], types["weight"]
        index = vectors(types["index"])
        fits = len(q.dims) == 4 and q.dims[3:] == index.sizes
        expect(fits, f"queries {q} do not fit the indexer keys {index}")
        wanted = TensorType(dtype="f32", dims=(q.dims[2], x.dims[-1]))
        expect(weight == wanted, f"weight {weight} is not {wanted}")
        return (TensorType(dtype="i64", dims=(*q.dims[:2], "N")),)

    def flops(self, types: Types, call: Call) -> int:
        """Count the product of each query with the keys it may see, and that for w."""
        heads, width = map(int, types["q"].dims[2:])
        pairs = call.batch * heads * call.scores()
        return 2 * (pairs * width + call.size(types["x"].dims) * heads)

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the operands, and every cached key of the indexer once."""
        index, dtype = vectors(types["index"]), types["x"].dtype
        return super().nbytes(types, call) + call.kept(index, dtype, call.slots())
