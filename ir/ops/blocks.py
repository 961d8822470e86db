"""Block-sparse attention: an indexer selects blocks of the cached tokens.

A selection is ``i64[B,T,G,N]``: for each query and each of G groups of heads the
numbers of N blocks, -1 where there are fewer. Blocks count from the first real token.
"""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Reads, Types, Value, expect
from glmc.ir.ops.attention import attention_flops, kv_type
from glmc.ir.ops.latent import vectors
from glmc.ir.placing import ByHead
from glmc.ir.types import TensorType


class BlockSelect(Op):
    """The ``top_k`` blocks of ``block`` slots whose best key has the highest q · k.

    q is ``[B,T,G,D]``, k the cached keys of the indexer; in fp32, over what a query may
    see. The query's own block and those before it, ``local`` together, always are among
    them.
    """

    mnemonic = "block_select"
    q: Value
    index: Reads
    block: int
    top_k: int
    local: int = 0

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, index = types["q"], vectors(types["index"])
        fits = len(q.dims) == 4 and q.dims[3:] == index.sizes
        expect(fits, f"queries {q} do not fit the indexer keys {index}")
        expect(0 <= self.local <= self.top_k, f"{self.local} of {self.top_k} blocks")
        return (TensorType(dtype="i64", dims=(*q.dims[:3], "N")),)

    def flops(self, types: Types, call: Call) -> int:
        """Count the product of each query with the keys it may see."""
        groups, width = map(int, types["q"].dims[2:])
        return 2 * call.batch * groups * call.scores() * width

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the operands, and every cached key of the indexer once."""
        index, dtype = vectors(types["index"]), types["q"].dtype
        return super().nbytes(types, call) + call.kept(index, dtype, call.slots())


class BlockAttention(Op):
    """attention over the slots of selected blocks only."""

    mnemonic = "block_attention"
    placing = ByHead(("q", "selection"), ("kv",))
    multiplies = True
    q: Value
    kv: Reads
    selection: Value
    block: int
    scale: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, kv, selection = types["q"], kv_type(types["kv"]), types["selection"]
        fits = len(q.dims) == 4 and q.dims[3] == kv.k_dim
        expect(fits, f"queries {q} do not fit the keys of {kv}")
        heads, groups = int(q.dims[2]), int(selection.dims[2])
        expect(heads % kv.kv_heads == 0, f"{heads} heads do not group over {kv}")
        wanted = TensorType(dtype="i64", dims=(*q.dims[:2], groups, "N"))
        fits = selection == wanted and heads % groups == 0
        expect(fits, f"selection {selection} is not for {q}")
        return (TensorType(dtype=q.dtype, dims=(*q.dims[:2], heads * kv.v_dim)),)

    def flops(self, types: Types, call: Call) -> int:
        """Count both products as if every block was selected: types do not say how many
        are."""
        kv = kv_type(types["kv"])
        return attention_flops(call, int(types["q"].dims[2]), kv)

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the operands and every slot, as if every block was selected."""
        seen = call.kept(kv_type(types["kv"]), types["q"].dtype, call.slots())
        return super().nbytes(types, call) + seen
