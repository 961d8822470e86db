"""Multi-head latent attention (arXiv:2405.04434) over a cache of latents.

The cache ``kv[1,R+r,0]`` holds one vector for each token, whatever the number of heads:
the latent, R wide, and then the rotated key that all heads share, r wide. There are no
values beside the keys: keys and values of a head are both made of the latent by its
rows of ``kv_b``, nope of them for the key and then those for the value.
"""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.ops.attention import cache_type
from glmc.ir.types import CacheType, TensorType, Type


class LatentWrite(Op):
    """Append this call's latents ``[B,T,R]`` and shared keys ``[B,T,1,r]``."""

    mnemonic = "latent_write"
    fills_cache = True
    kv: Value
    latent: Value
    shared: Value

    def infer(self, types: Types) -> tuple[Type, ...]:
        kv, latent, shared = _latents(types["kv"]), types["latent"], types["shared"]
        expect(shared.dims[2:3] == (1,), f"shared keys {shared} are not of one head")
        width = int(latent.dims[-1]) + int(shared.dims[-1])
        expect(width == kv.k_dim, f"{latent} and {shared} do not fill {kv}")
        return (kv,)

    def nbytes(self, types: Types, call: Call) -> int:
        """Latents and shared keys, read and written."""
        return 2 * (call.nbytes(types["latent"]) + call.nbytes(types["shared"]))

    def flops(self, types: Types, call: Call) -> int:
        """None: latents and keys are copied."""
        return 0


class LatentAttention(Op):
    """softmax(q kᵀ · scale) v, causal, with the k and v that ``kv_b`` makes of latents.

    A query ``[B,T,H,nope+r]`` is nope channels and then those that turned. With a
    ``selection`` of slots it sees no others, with a ``window`` at most so many, up to
    its own. Result ``[B,T,H · v]``.

    Many queries expand the latents to keys and values of each head; a single one is
    taken to the latents instead (q kᵀ = (q W_k) cᵀ), and only its context, a mixture of
    latents, is expanded. Both are the same up to rounding. ``bias`` is ``kv_b``'s.
    """

    mnemonic = "latent_attention"
    multiplies = True
    q: Value
    kv: Value
    kv_b: Param
    bias: Param | None = None
    selection: Value | None = None
    scale: float
    window: int | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, kv, kv_b = types["q"], _latents(types["kv"]), types["kv_b"]
        expect(len(q.dims) == 4, f"queries must be [B,T,heads,width], not {q}")
        expect(len(kv_b.dims) == 2, f"kv_b must have 2 dims, not {kv_b}")
        heads, nope, v_dim = _sizes(q, kv, kv_b)
        fits = int(kv_b.dims[1]) <= kv.k_dim and nope > 0 and v_dim > 0
        fits = fits and heads * (nope + v_dim) == kv_b.dims[0]
        expect(fits, f"{kv_b} does not make keys and values for {q} of {kv}")
        bias, selection = types.get("bias"), types.get("selection")
        fits = not bias or bias.dims == kv_b.dims[:1]
        expect(fits, f"bias {bias} does not fit {kv_b}")
        wanted = TensorType(dtype="i64", dims=(*q.dims[:2], "N"))
        fits = not selection or selection == wanted
        expect(fits, f"selection {selection} is not {wanted}")
        fits = not (selection and self.window)
        expect(fits, "a selection and a window do not go together")
        return (TensorType(dtype=q.dtype, dims=(*q.dims[:2], heads * v_dim)),)

    def flops(self, types: Types, call: Call) -> int:
        """Expanded or absorbed, whichever is less; as if everything was selected, since
        how much is, no type says."""
        q, kv, kv_b = types["q"], _latents(types["kv"]), types["kv_b"]
        heads, _, v_dim = _sizes(q, kv, kv_b)
        rank, pairs = int(kv_b.dims[1]), call.batch * heads * call.scores(self.window)
        weights = call.size(kv_b.dims)
        expanded = call.batch * call.slots(self.window) * weights
        expanded += pairs * (int(q.dims[3]) + v_dim)
        absorbed = call.batch * call.tokens * weights + pairs * (kv.k_dim + rank)
        return 2 * min(expanded, absorbed)

    def nbytes(self, types: Types, call: Call) -> int:
        """The operands, and every slot once, as if everything was selected."""
        slots = call.slots(self.window)
        seen = call.cached(_latents(types["kv"]), types["q"].dtype, slots)
        return super().nbytes(types, call) + seen


def _latents(kv: object) -> CacheType:
    """``kv``'s type, which must be a cache of latents."""
    found = cache_type(kv)
    expect(found.kv_heads == 1 and not found.v_dim, f"{found} does not hold latents")
    return found


def _sizes(q: TensorType, kv: CacheType, kv_b: TensorType) -> tuple[int, int, int]:
    """(heads, a head's channels that do not turn, channels of its value)."""
    heads = int(q.dims[2])
    nope = int(q.dims[3]) - (kv.k_dim - int(kv_b.dims[1]))
    return heads, nope, int(kv_b.dims[0]) // heads - nope
