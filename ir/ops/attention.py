"""The key/value cache and attention over it.

``kv`` is threaded through the graph like any value: ``kv_write`` returns the cache
after the write, and attention reads that. Slots of the cache, not positions, decide
what a query sees, so left padding and rotary positions stay independent.
"""

from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.ops.norms import WeightIn
from glmc.ir.ops.rope import RopeStyle
from glmc.ir.types import CacheType, TensorType, Type


def cache_type(kv: object) -> CacheType:
    """``kv``'s type, which must be a cache."""
    expect(isinstance(kv, CacheType), f"kv must be a cache, not {kv}")
    assert isinstance(kv, CacheType)
    return kv


class KvWrite(Op):
    """Append this call's keys and values ``[B,T,K,D]`` to the layer's cache."""

    mnemonic = "kv_write"
    kv: Value
    k: Value
    v: Value

    def infer(self, types: Types) -> tuple[Type, ...]:
        kv, k, v = cache_type(types["kv"]), types["k"], types["v"]
        expect(k.dims[2:] == (kv.kv_heads, kv.k_dim), f"keys {k} do not fit {kv}")
        expect(v.dims[2:] == (kv.kv_heads, kv.v_dim), f"values {v} do not fit {kv}")
        return (kv,)


class Attention(Op):
    """softmax(q kᵀ · scale) v over the cache, causal, softmax in fp32.

    A query sees the cached slots from its row's first real token up to its own, at
    most ``window`` of them. Result ``[B,T,heads · width]``.
    """

    mnemonic = "attention"
    q: Value
    kv: Value
    scale: float
    window: int | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, kv = types["q"], cache_type(types["kv"])
        expect(len(q.dims) == 4, f"queries must be [B,T,heads,width], not {q}")
        heads, width = int(q.dims[2]), q.dims[3]
        expect(width == kv.k_dim, f"queries {q} are not as wide as the keys of {kv}")
        expect(heads % kv.kv_heads == 0, f"{heads} heads do not group over {kv}")
        dims = (*q.dims[:2], heads * kv.v_dim)
        return (TensorType(dtype=q.dtype, dims=dims),)


class QkvAttention(Op):
    """From packed ``q | k | v`` to the context: all that lies between two linears.

    Per-head RMS norm of q and k (where ``q_norm`` and ``k_norm`` are given), rotary
    embedding (where ``cos`` and ``sin`` are), the cache write, and attention.
    """

    mnemonic = "qkv_attention"
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
        qkv, kv = types["qkv"], cache_type(types["kv"])
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim
        expect(qkv.dims[-1] == rows, f"{qkv} does not hold {rows} channels")
        want = CacheType(
            kv_heads=self.kv_heads, k_dim=self.head_dim, v_dim=self.head_dim
        )
        expect(kv == want, f"cache {kv} is not {want}")
        return (qkv.with_last(self.heads * self.head_dim),)
