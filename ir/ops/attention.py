"""Attention over keys and values that are kept; attention without them.

The state ``kv`` is threaded through the graph like any value: ``kv_write`` returns it
after the write, and attention reads that. Slots of the cache, not positions, decide
what a query sees, so left padding and rotary positions stay independent.
"""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Reads, Types, Value, Writes, expect
from glmc.ir.ops.norms import RMS_FLOPS, WeightIn
from glmc.ir.ops.rope import RopeStyle, check_sections
from glmc.ir.placing import ByHead
from glmc.ir.state import KvType
from glmc.ir.types import TensorType, Type


def _extras(types: Types, heads: int) -> None:
    """Check that slopes and sinks have one number for each head."""
    for name in ("slopes", "sinks"):
        if name in types:
            given = types[name]
            expect(given.dims == (heads,), f"{name} {given} are not one for each head")


def _masking(types: Types, window: int | None, learned: int) -> None:
    """Check the mask of an op that attends: prefix, window, learned slots."""
    prefix = types.get("prefix")
    if prefix is not None:
        fits = prefix.dtype == "i32" and len(prefix.dims) == 1
        expect(fits, f"prefix must be i32[B], not {prefix}")
        expect(window is None, "a window and a prefix do not go together")
    expect(learned >= 0, f"{learned} learned slots")
    expect(window is None or not learned, "a window would hide the learned slots")
    check_window(window)


def check_window(window: int | None) -> None:
    """Check that a query sees at least itself."""
    expect(window is None or window > 0, f"a window of {window} hides every token")


def kv_type(kv: object) -> KvType:
    """Check that a type is a state of keys and values, and return it."""
    expect(isinstance(kv, KvType), f"kv must hold keys and values, not {kv}")
    assert isinstance(kv, KvType)
    return kv


def attention_flops(
    call: Call, heads: int, kv: KvType, window: int | None = None
) -> int:
    """Count a multiply-add for each (query, slot) pair and each channel of key and
    value.

    The softmax is not counted: it is small beside them and runs on other units.
    """
    pairs = call.batch * heads * call.scores(window)
    return 2 * pairs * (kv.k_dim + kv.v_dim)


class KvWrite(Op):
    """Append this call's keys and values ``[B,T,K,D]`` to those that are kept."""

    mnemonic = "kv_write"
    placing = ByHead(("k", "v"), ("kv",), "k")
    kv: Writes
    k: Value
    v: Value

    def infer(self, types: Types) -> tuple[Type, ...]:
        kv, k, v = kv_type(types["kv"]), types["k"], types["v"]
        expect(k.dims[2:] == (kv.kv_heads, kv.k_dim), f"keys {k} do not fit {kv}")
        expect(v.dims[2:] == (kv.kv_heads, kv.v_dim), f"values {v} do not fit {kv}")
        return (kv,)

    def flops(self, types: Types, call: Call) -> int:
        """Return 0: keys and values are copied."""
        return 0

    def nbytes(self, types: Types, call: Call) -> int:
        """Count keys and values, read and written."""
        return 2 * (call.nbytes(types["k"]) + call.nbytes(types["v"]))


class Attention(Op):
    """softmax(q kᵀ · scale) v over the cache, causal, softmax in fp32.

    A query sees the cached slots from its row's first real token up to its own, at
    most ``window`` of them, and with ``chunk`` only those of its own chunk, counted
    from the first real token. With ``prefix`` (a slot for each row) it also sees all
    real slots below that. The first ``learned`` slots are seen by everyone. Result
    ``[B,T,heads · width]``.

    Scores are scaled, become softcap · tanh(score / softcap), and fall by the head's
    slope for each slot between (``slopes``, ALiBi). A head's sink is one more logit,
    without a value.
    """

    mnemonic = "attention"
    placing = ByHead(("q",), ("kv", "slopes", "sinks"))
    multiplies = True
    q: Value
    kv: Reads
    prefix: Value | None = None
    slopes: Value | None = None
    sinks: Param | None = None
    scale: float
    window: int | None = None
    learned: int = 0
    chunk: int | None = None
    softcap: float | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, kv = types["q"], kv_type(types["kv"])
        expect(len(q.dims) == 4, f"queries must be [B,T,heads,width], not {q}")
        heads, width = int(q.dims[2]), q.dims[3]
        expect(width == kv.k_dim, f"queries {q} are not as wide as the keys of {kv}")
        expect(heads % kv.kv_heads == 0, f"{heads} heads do not group over {kv}")
        _extras(types, heads)
        _masking(types, self.window, self.learned)
        dims = (*q.dims[:2], heads * kv.v_dim)
        return (TensorType(dtype=q.dtype, dims=dims),)

    def flops(self, types: Types, call: Call) -> int:
        """Count both products; see :func:`attention_flops`."""
        kv = kv_type(types["kv"])
        return attention_flops(call, int(types["q"].dims[2]), kv, self.window)

    def nbytes(self, types: Types, call: Call) -> int:
        """Count queries, context, and every slot that is seen, once."""
        kv, dtype = kv_type(types["kv"]), types["q"].dtype
        seen = call.kept(kv, dtype, call.slots(self.window))
        return seen + call.nbytes(types["q"]) + call.nbytes(self.results[0].type)


class PairValues(Op):
    """Values ``[B,T,K,D]`` to ``[B,T,K,2D]``: each head h has those of heads h and
    h + K/2, counted within a half."""

    mnemonic = "pair_values"
    v: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        v = types["v"]
        expect(len(v.dims) == 4, f"values must be [B,T,heads,width], not {v}")
        heads, width = map(int, v.dims[2:])
        expect(heads % 2 == 0, f"the heads of {v} do not make two halves")
        return (v.with_last(2 * width),)


class Difference(Op):
    """(1 - ``init``) · rms_normalize(x₁ - lambda · x₂), x₁ and x₂ being the two halves
    of the heads of a context ``[B,T,H · D]``, head by head ``[B,T,H/2 · D]``.

    lambda = exp(q1 · k1) - exp(q2 · k2) + ``init``, the products in fp32.
    """

    mnemonic = "difference"
    x: Value
    q1: Param
    k1: Param
    q2: Param
    k2: Param
    heads: int
    init: float
    eps: float

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, width = types["x"], int(types["x"].dims[-1])
        fits = self.heads % 2 == 0 and width % self.heads == 0
        expect(fits, f"{x} is not made of two halves of {self.heads} heads")
        for name in ("q1", "k1", "q2", "k2"):
            expect(types[name].dims == types["q1"].dims, f"{name} is not like q1")
        expect(len(types["q1"].dims) == 1, f"q1 {types['q1']} is no vector")
        return (x.with_last(width // 2),)


class FullAttention(Op):
    """softmax(q kᵀ · scale) v over all tokens of this call, softmax in fp32.

    A query sees the tokens of its row where ``mask`` is true, and with a ``window``
    only those that are less than so many slots from its own on either side. Queries,
    keys and values are ``[B,T,heads,width]``, the result is ``[B,T,heads · width]``.
    ``distances`` ``f32[heads,T,T]`` are added to the scores.
    """

    mnemonic = "full_attention"
    placing = ByHead(("q", "k", "v"), ("distances",))
    multiplies = True
    q: Value
    k: Value
    v: Value
    mask: Value
    distances: Value | None = None
    scale: float
    window: int | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, k, v, mask = (types[name] for name in ("q", "k", "v", "mask"))
        expect(len(q.dims) == 4, f"queries must be [B,T,heads,width], not {q}")
        expect(k.dims[:3] == v.dims[:3], f"keys {k} do not go with values {v}")
        expect(q.dims[:2] == k.dims[:2], f"keys {k} do not go with queries {q}")
        expect(q.dims[3] == k.dims[3], f"queries {q} are not as wide as keys {k}")
        heads, kv_heads = int(q.dims[2]), int(k.dims[2])
        expect(heads % kv_heads == 0, f"{heads} heads do not group over {kv_heads}")
        fits = mask == TensorType(dtype="bool", dims=q.dims[:2])
        expect(fits, f"mask must be bool[B,T], not {mask}")
        distances = types.get("distances")
        wanted = TensorType(dtype="f32", dims=(heads, q.dims[1], q.dims[1]))
        fits = not distances or distances == wanted
        expect(fits, f"distances {distances} are not {wanted}")
        check_window(self.window)
        dims = (*q.dims[:2], heads * int(v.dims[3]))
        return (TensorType(dtype=q.dtype, dims=dims),)

    def flops(self, types: Types, call: Call) -> int:
        """Count both products, of every token with every token; softmax is not
        counted."""
        pairs = call.size(types["q"].dims[:3]) * call.tokens
        return 2 * pairs * (int(types["k"].dims[3]) + int(types["v"].dims[3]))


class QkvAttention(Op):
    """The context from packed ``q | k | v``: everything between two linears.

    Per-head RMS norm of q and k (where ``q_norm`` and ``k_norm`` are given), rotary
    embedding (where ``cos`` and ``sin`` are), the cache write, and attention, with the
    attributes of ``rope`` and ``attention``.
    """

    mnemonic = "qkv_attention"
    placing = ByHead(("qkv",), ("kv", "slopes", "sinks"))
    multiplies = True
    qkv: Value
    kv: Writes
    cos: Value | None = None
    sin: Value | None = None
    q_norm: Param | None = None
    k_norm: Param | None = None
    prefix: Value | None = None
    slopes: Value | None = None
    sinks: Param | None = None
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    style: RopeStyle | None = None
    sections: int = 1
    eps: float = 0.0
    weight_in: WeightIn = "input"
    unit_offset: bool = False
    window: int | None = None
    learned: int = 0
    chunk: int | None = None
    softcap: float | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        qkv, kv = types["qkv"], kv_type(types["kv"])
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim
        expect(qkv.dims[-1] == rows, f"{qkv} does not hold {rows} channels")
        want = KvType(kv_heads=self.kv_heads, k_dim=self.head_dim, v_dim=self.head_dim)
        expect(kv == want, f"{kv} is not {want}")
        _extras(types, self.heads)
        if "cos" in types:
            check_sections(types["cos"], self.sections)
        _masking(types, self.window, self.learned)
        return (qkv.with_last(self.heads * self.head_dim),)

    def flops(self, types: Types, call: Call) -> int:
        """Count norms, rotations and both products of attention."""
        heads, work = self.heads + self.kv_heads, 0
        if self.q_norm:
            rows = call.size(types["qkv"].dims[:-1]) * heads
            work += RMS_FLOPS * rows * self.head_dim
        if self.cos:
            work += 6 * call.size(types["cos"].dims) * heads
        kv = kv_type(types["kv"])
        return work + attention_flops(call, self.heads, kv, self.window)

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the sum over its parts: packed product, tables and weights read, this
        call's slots written, every visible slot read once, the context written."""
        kv, dtype = kv_type(types["kv"]), types["qkv"].dtype
        slots = call.tokens + call.slots(self.window)
        return super().nbytes(types, call) + call.kept(kv, dtype, slots)
