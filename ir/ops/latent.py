"""Multi-head latent attention (arXiv:2405.04434) over latents that are kept.

The state ``[R+r] per token`` is one vector for each token, whatever the number of
heads: the latent, R wide, and then the rotated key that all heads share, r wide. Keys
and values of a head are both made of the latent by its rows of ``kv_b``, nope of them
for the key and then those for the value.
"""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Reads, Types, Value, Writes, expect
from glmc.ir.ops.attention import check_window
from glmc.ir.placing import ByHead
from glmc.ir.state import TokenType
from glmc.ir.types import TensorType, Type


class LatentWrite(Op):
    """Append this call's latents ``[B,T,R]`` and shared keys ``[B,T,1,r]``."""

    mnemonic = "latent_write"
    latents: Writes
    latent: Value
    shared: Value

    def infer(self, types: Types) -> tuple[Type, ...]:
        kept, latent, shared = (
            vectors(types["latents"]),
            types["latent"],
            types["shared"],
        )
        expect(shared.dims[2:3] == (1,), f"shared keys {shared} are not of one head")
        width = int(latent.dims[-1]) + int(shared.dims[-1])
        expect(width == kept.sizes[0], f"{latent} and {shared} do not fill {kept}")
        return (kept,)

    def nbytes(self, types: Types, call: Call) -> int:
        """Count latents and shared keys, read and written."""
        return 2 * (call.nbytes(types["latent"]) + call.nbytes(types["shared"]))

    def flops(self, types: Types, call: Call) -> int:
        """Return 0: latents and keys are copied."""
        return 0


class LatentAttention(Op):
    """softmax(q kᵀ · scale) v, causal, with the k and v that ``kv_b`` makes of latents.

    A query ``[B,T,H,nope+r]`` is nope channels and then those that turned. With a
    ``selection`` of slots it sees no others, with a ``window`` at most so many, up to
    its own. Result ``[B,T,H · v]``.

    Many queries expand the latents to keys and values of each head; a single one is
    taken to the latents instead (q kᵀ = (q W_k) cᵀ), and only its context, a mixture of
    latents, is expanded. Both are the same up to rounding. ``bias`` is ``kv_b``'s;
    ``sinks`` are a logit of each head in the softmax that has no value.
    """

    mnemonic = "latent_attention"
    placing = ByHead(("q",), ("kv_b", "bias", "sinks"))
    multiplies = True
    q: Value
    latents: Reads
    kv_b: Param
    bias: Param | None = None
    selection: Value | None = None
    sinks: Param | None = None
    scale: float
    window: int | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        q, kept, kv_b = types["q"], vectors(types["latents"]), types["kv_b"]
        expect(len(q.dims) == 4, f"queries must be [B,T,heads,width], not {q}")
        expect(len(kv_b.dims) == 2, f"kv_b must have 2 dims, not {kv_b}")
        heads, nope, v_dim = _sizes(q, kept, kv_b)
        fits = int(kv_b.dims[1]) <= kept.sizes[0] and nope > 0 and v_dim > 0
        fits = fits and heads * (nope + v_dim) == kv_b.dims[0]
        expect(fits, f"{kv_b} does not make keys and values for {q} of {kept}")
        bias, selection = types.get("bias"), types.get("selection")
        fits = not bias or bias.dims == kv_b.dims[:1]
        expect(fits, f"bias {bias} does not fit {kv_b}")
        wanted = TensorType(dtype="i64", dims=(*q.dims[:2], "N"))
        fits = not selection or selection == wanted
        expect(fits, f"selection {selection} is not {wanted}")
        check_window(self.window)
        fits = not (selection and self.window)
        expect(fits, "a selection and a window do not go together")
        sinks = types.get("sinks")
        fits = not sinks or sinks.dims == (heads,)
        expect(fits, f"sinks {sinks} do not fit {heads} heads")
        return (TensorType(dtype=q.dtype, dims=(*q.dims[:2], heads * v_dim)),)

    def flops(self, types: Types, call: Call) -> int:
        """Count the expanded or the absorbed form, whichever is less, as if every slot
        was selected: types do not say how many are."""
        q, kept, kv_b = types["q"], vectors(types["latents"]), types["kv_b"]
        heads, _, v_dim = _sizes(q, kept, kv_b)
        rank, pairs = int(kv_b.dims[1]), call.batch * heads * call.scores(self.window)
        weights = call.size(kv_b.dims)
        expanded = call.batch * call.slots(self.window) * weights
        expanded += pairs * (int(q.dims[3]) + v_dim)
        absorbed = call.batch * call.tokens * weights + pairs * (kept.sizes[0] + rank)
        return 2 * min(expanded, absorbed)

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the operands, and every slot once, as if every slot was selected."""
        slots = call.slots(self.window)
        seen = call.kept(vectors(types["latents"]), types["q"].dtype, slots)
        return super().nbytes(types, call) + seen


def vectors(state: object) -> TokenType:
    """Check that a state holds one vector for each token, and return its type."""
    one = isinstance(state, TokenType) and len(state.sizes) == 1
    expect(one, f"what is kept must be one vector per token, not {state}")
    assert isinstance(state, TokenType)
    return state


def _sizes(q: TensorType, kept: TokenType, kv_b: TensorType) -> tuple[int, int, int]:
    """Return (heads, a head's channels that are not rotated, channels of its value)."""
    heads = int(q.dims[2])
    nope = int(q.dims[3]) - (kept.sizes[0] - int(kv_b.dims[1]))
    return heads, nope, int(kv_b.dims[0]) // heads - nope
