"""The key/value cache and attention over it.

``kv`` is threaded through the graph like any value: ``kv_write`` returns the cache
after the write, and attention reads that. Slots of the cache, not positions, decide
what a query sees, so left padding and rotary positions stay independent.
"""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.ops.norms import RMS_FLOPS, WeightIn
from glmc.ir.ops.rope import RopeStyle
from glmc.ir.types import CacheType, TensorType, Type


def _cache(kv: object) -> CacheType:
    expect(isinstance(kv, CacheType), f"kv must be a cache, not {kv}")
    assert isinstance(kv, CacheType)
    return kv


def attention_flops(
    call: Call, heads: int, kv: CacheType, window: int | None = None
) -> int:
    """A multiply-add for each pair of query and slot and each channel of key and value.

    The softmax is not counted: it is small beside them and runs on other units.
    """
    pairs = call.batch * heads * call.scores(window)
    return 2 * pairs * (kv.k_dim + kv.v_dim)


class KvWrite(Op):
    """Append this call's keys and values ``[B,T,K,D]`` to the layer's cache."""

    mnemonic = "kv_write"
    kv: Value
    k: Value
    v: Value

    def infer(self, types: Types) -> tuple[Type, ...]:
        kv, k, v = _cache(types["kv"]), types["k"], types["v"]
        expect(k.dims[2:] == (kv.kv_heads, kv.k_dim), f"keys {k} do not fit {kv}")
        expect(v.dims[2:] == (kv.kv_heads, kv.v_dim), f"values {v} do not fit {kv}")
        return (kv,)

    def flops(self, types: Types, call: Call) -> int:
        """None: keys and values are copied."""
        return 0

    def nbytes(self, types: Types, call: Call) -> int:
        """Keys and values, read and written."""
        return 2 * (call.nbytes(types["k"]) + call.nbytes(types["v"]))


class Attention(Op):
    """softmax(q kᵀ · scale) v over the cache, causal, softmax in fp32.

    A query sees the cached slots from its row's first real token up to its own, at
    most ``window`` of them. Result ``[B,T,heads · width]``.
    """

    mnemonic = "attention"
    multiplies = True
    q: Value
    kv: Value
    scale: float
    window: int | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, kv = types["q"], _cache(types["kv"])
        expect(len(q.dims) == 4, f"queries must be [B,T,heads,width], not {q}")
        heads, width = int(q.dims[2]), q.dims[3]
        expect(width == kv.k_dim, f"queries {q} are not as wide as the keys of {kv}")
        expect(heads % kv.kv_heads == 0, f"{heads} heads do not group over {kv}")
        dims = (*q.dims[:2], heads * kv.v_dim)
        return (TensorType(dtype=q.dtype, dims=dims),)

    def flops(self, types: Types, call: Call) -> int:
        """Both products; see :func:`attention_flops`."""
        kv = _cache(types["kv"])
        return attention_flops(call, int(types["q"].dims[2]), kv, self.window)

    def nbytes(self, types: Types, call: Call) -> int:
        """Queries, context, and every slot that is seen, once."""
        kv, dtype = _cache(types["kv"]), types["q"].dtype
        seen = call.cached(kv, dtype, call.slots(self.window))
        return seen + call.nbytes(types["q"]) + call.nbytes(self.results[0].type)


class QkvAttention(Op):
    """From packed ``q | k | v`` to the context: all that lies between two linears.

    Per-head RMS norm of q and k (where ``q_norm`` and ``k_norm`` are given), rotary
    embedding (where ``cos`` and ``sin`` are), the cache write, and attention.
    """

    mnemonic = "qkv_attention"
    multiplies = True
    launches = 2
    qkv: Value
    kv: Value
    cos: Value | None = None
    sin: Value | None = None
    q_norm: Param | None = None
    k_norm: Param | None = None
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    style: RopeStyle | None = None
    eps: float = 0.0
    weight_in: WeightIn = "input"
    window: int | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        qkv, kv = types["qkv"], _cache(types["kv"])
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim
        expect(qkv.dims[-1] == rows, f"{qkv} does not hold {rows} channels")
        want = CacheType(
            kv_heads=self.kv_heads, k_dim=self.head_dim, v_dim=self.head_dim
        )
        expect(kv == want, f"cache {kv} is not {want}")
        return (qkv.with_last(self.heads * self.head_dim),)

    def flops(self, types: Types, call: Call) -> int:
        """Norms, rotations and both products of attention."""
        heads, work = self.heads + self.kv_heads, 0
        if self.q_norm:
            rows = call.size(types["qkv"].dims[:-1]) * heads
            work += RMS_FLOPS * rows * self.head_dim
        if self.cos:
            work += 6 * call.size(types["cos"].dims) * heads
        kv = _cache(types["kv"])
        return work + attention_flops(call, self.heads, kv, self.window)

    def nbytes(self, types: Types, call: Call) -> int:
        """As each of its parts must: the packed product, tables and weights read, this
        call's slots written, every slot that is seen read once, the context written.
        """
        kv, dtype = _cache(types["kv"]), types["qkv"].dtype
        slots = call.tokens + call.slots(self.window)
        return super().nbytes(types, call) + call.cached(kv, dtype, slots)
