"""Block-sparse attention: an indexer selects blocks of the cached tokens.

A selection is ``i64[B,T,G,N]``: for each query and each of G groups of heads the
numbers of N blocks, -1 where there are fewer. Blocks count from the first real token.
"""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Types, Value, expect
from glmc.ir.ops.attention import attention_flops, cache_type
from glmc.ir.types import BYTES, TensorType


class BlockSelect(Op):
    """The ``top_k`` blocks of ``block`` slots whose best key has the highest q · k.

    q is ``[B,T,G,D]``, k the cached keys of the indexer; in fp32, over what a query may
    see. The query's own block and those before it, ``local`` together, always are among
    them.
    """

    mnemonic = "block_select"
    q: Value
    kv: Value
    block: int
    top_k: int
    local: int = 0

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, kv = types["q"], cache_type(types["kv"])
        fits = len(q.dims) == 4 and q.dims[3] == kv.index_dim
        expect(fits, f"queries {q} do not fit the indexer keys of {kv}")
        expect(0 <= self.local <= self.top_k, f"{self.local} of {self.top_k} blocks")
        return (TensorType(dtype="i64", dims=(*q.dims[:3], "N")),)

    def flops(self, types: Types, call: Call) -> int:
        """The product of each query with the keys it may see."""
        groups, width = map(int, types["q"].dims[2:])
        return 2 * call.batch * groups * call.scores() * width

    def nbytes(self, types: Types, call: Call) -> int:
        """The operands, and every cached key of the indexer once."""
        width = cache_type(types["kv"]).index_dim * BYTES[types["q"].dtype]
        return super().nbytes(types, call) + call.batch * call.slots() * width


class BlockAttention(Op):
    """attention over the slots of selected blocks only."""

    mnemonic = "block_attention"
    multiplies = True
    q: Value
    kv: Value
    selection: Value
    block: int
    scale: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, kv, selection = types["q"], cache_type(types["kv"]), types["selection"]
        fits = len(q.dims) == 4 and q.dims[3] == kv.k_dim
        expect(fits, f"queries {q} do not fit the keys of {kv}")
        heads, groups = int(q.dims[2]), int(selection.dims[2])
        expect(heads % kv.kv_heads == 0, f"{heads} heads do not group over {kv}")
        wanted = TensorType(dtype="i64", dims=(*q.dims[:2], groups, "N"))
        fits = selection == wanted and heads % groups == 0
        expect(fits, f"selection {selection} is not for {q}")
        return (TensorType(dtype=q.dtype, dims=(*q.dims[:2], heads * kv.v_dim)),)

    def flops(self, types: Types, call: Call) -> int:
        """Both products, as if everything was selected: how much is, no type says."""
        kv = cache_type(types["kv"])
        return attention_flops(call, int(types["q"].dims[2]), kv)

    def nbytes(self, types: Types, call: Call) -> int:
        """The operands and every slot, as if everything was selected."""
        seen = call.cached(cache_type(types["kv"]), types["q"].dtype, call.slots())
        return super().nbytes(types, call) + seen
