"""Mixtures of experts: the choice of experts, and the experts."""

from typing import ClassVar, Literal

from glmc.ir.activations import ActivationName
from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.ops.quantized import Floats, stack_type
from glmc.ir.placing import Experts
from glmc.ir.types import TensorType


class MoeRouter(Op):
    """The experts ``i64[B,T,k]`` of each token, and their weights ``f32[B,T,k]``.

    In fp32: s = score(x Wᵀ + b), logits capped softly before (``softcap``); the
    ``top_k`` highest of s + correction, among the experts of the ``top_groups`` groups
    whose best, or two best together, are highest (others are never chosen, or with
    ``ineligible`` zero compared as 0); weighed by s, or for logits by
    after(s), divided by the sum (``least_sum`` at least, or with ``sum_eps`` added) if
    ``renormalise``, times ``scale``.

    ``sparsemixer`` (arXiv:2409.12136) chooses one expert after the other: the one with
    the highest logit m of those left, weighed by its share in the softmax over those
    left whose logit s is not too low: (m - s) / max(|s|, m) <= 2 · ``jitter``.

    With a ``table`` ``i64[V,k]`` the experts are its rows for the token ``ids``,
    weighed by their scores.
    """

    mnemonic = "moe_router"
    exact: ClassVar[tuple[str, ...]] = ("weight", "bias", "correction")
    x: Value
    weight: Param
    bias: Param | None = None
    correction: Param | None = None
    ids: Value | None = None
    table: Param | None = None
    top_k: int
    softcap: float | None = None
    score: Literal["softmax", "sigmoid", "sqrt_softplus", "logit", "sparsemixer"]
    jitter: float | None = None
    after: Literal["softmax", "sigmoid"] | None = None
    groups: int = 1
    top_groups: int = 1
    group_score: Literal["top2", "max"] = "top2"
    ineligible: Literal["never", "zero"] = "never"
    renormalise: bool = False
    least_sum: float | None = None
    sum_eps: float | None = None
    scale: float = 1.0

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight = types["x"], types["weight"]
        expect(len(weight.dims) == 2, f"weight must have 2 dims, not {weight}")
        expect(weight.dtype == "f32", f"the router computes in f32, not with {weight}")
        expect(x.dims[-1] == weight.dims[1], f"{x} does not multiply {weight}")
        for name in ("bias", "correction"):
            each = types.get(name)
            fits = not each or (each.dims == weight.dims[:1] and each.dtype == "f32")
            expect(fits, f"{name} {each} does not fit {weight}")
        raw = self.score == "logit"
        expect(raw == bool(self.after), "after is for logits, and logits need it")
        mixes = self.score == "sparsemixer"
        expect(mixes == bool(self.jitter), "jitter is for sparsemixer, which needs it")
        alone = not (types.get("correction") or self.groups > 1 or self.renormalise)
        expect(alone or not mixes, "sparsemixer chooses and weighs in its own way")
        self._check_groups(int(weight.dims[0]))
        self._check_table(types)
        chosen = TensorType(dtype="i64", dims=(*x.dims[:-1], self.top_k))
        return chosen, TensorType(dtype="f32", dims=chosen.dims)

    def flops(self, types: Types, call: Call) -> int:
        """Count the product with every expert's row; the choice is not counted."""
        rows = call.size(types["weight"].dims[:1])
        return 2 * call.size(types["x"].dims) * rows

    def _check_table(self, types: Types) -> None:
        ids, table = types.get("ids"), types.get("table")
        expect(bool(ids) == bool(table), "a table needs ids, and ids need a table")
        if not table or not ids:
            return
        fits = table.dtype == "i64" and table.dims[1:] == (self.top_k,)
        expect(fits, f"table {table} does not name {self.top_k} experts for each id")
        dims = types["x"].dims[:-1]
        expect(ids == TensorType(dtype="i64", dims=dims), f"ids {ids} are not of x")
        chooses = types.get("correction") or self.groups > 1
        chooses = chooses or self.score == "sparsemixer"
        expect(not chooses, "a table leaves nothing to choose")

    def _check_groups(self, experts: int) -> None:
        size, rest = divmod(experts, self.groups)
        expect(rest == 0, f"{experts} experts do not make {self.groups} groups")
        two = self.groups > 1 and self.group_score == "top2"
        expect(not two or size > 1, "a group needs two experts to be judged by")
        fits = 1 <= self.top_groups <= self.groups
        expect(fits, f"top_groups is {self.top_groups} of {self.groups}")
        eligible = self.top_groups * size
        fits = 1 <= self.top_k <= eligible
        expect(fits, f"top_k is {self.top_k} of {eligible} eligible experts")


class ScaleExperts(Op):
    """weightₖ · scale[expertₖ]: a learned factor of each chosen expert, in fp32."""

    mnemonic = "scale_experts"
    exact: ClassVar[tuple[str, ...]] = ("scale",)
    weights: Value
    experts: Value
    scale: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        weights, experts, scale = (types[n] for n in ("weights", "experts", "scale"))
        fits = weights.dims == experts.dims and weights.dtype == scale.dtype == "f32"
        expect(fits, f"weights {weights} do not go with {experts} and {scale}")
        expect(len(scale.dims) == 1, f"{scale} is not one number for each expert")
        return (weights,)


class _Experts(Op):
    """Experts, whatever their weights are stored as: see :class:`MoeExperts`."""

    placing = Experts()
    multiplies = True
    stacks: ClassVar[tuple[str, ...]] = ("gate_up", "down")
    """The operands of which only those of chosen experts are read."""
    x: Value
    experts: Value
    weights: Value
    gate_up: Param
    down: Param
    gate_up_bias: Param | None = None
    down_bias: Param | None = None
    fn: ActivationName
    alpha: float | None = None
    limit: float | None = None
    cut: Literal["activated", "gate"] = "activated"
    soft: float | None = None
    weigh: Literal["output", "input"] = "output"
    zero_experts: int = 0
    gated: bool = True

    def made(
        self, types: Types, gate_up: TensorType, down: TensorType
    ) -> tuple[TensorType, ...]:
        """Check the operands, with the weights as floats; return the result's type."""
        x, experts, weights = (types[name] for name in ("x", "experts", "weights"))
        fits = experts.dims == weights.dims and experts.dims[:-1] == x.dims[:-1]
        expect(fits, f"experts {experts} and weights {weights} do not fit {x}")
        expect(len(gate_up.dims) == len(down.dims) == 3, "experts must be stacks")
        count, out, width = down.dims
        wanted = (count, (1 + self.gated) * int(width), x.dims[-1])
        expect(gate_up.dims == wanted, f"{gate_up} does not fit {x} and {down}")
        expect(out == x.dims[-1], f"{down} does not give {x}")
        for name, stack in (("gate_up_bias", gate_up), ("down_bias", down)):
            each = types.get(name)
            fits = not each or each.dims == stack.dims[:2]
            expect(fits, f"{name} {each} does not fit {stack}")
        expect(self.limit is not None or self.alpha is None, "alpha needs a limit")
        fits = self.gated or self.limit is None
        expect(fits, "a limit is of gated experts")
        return (x,)

    def flops(self, types: Types, call: Call) -> int:
        """Count two products for each expert that a token chose, three with a gate."""
        rows = int(types["gate_up"].dims[1]) // (1 + self.gated)
        weights = rows * call.size(types["x"].dims[-1:])
        return 2 * call.size(types["experts"].dims) * (2 + self.gated) * weights

    def nbytes(self, types: Types, call: Call) -> int:
        """Count all operands, but of the stacks no more experts than there are
        choices."""
        stacks = sum(call.nbytes(types[name]) for name in self.stacks if name in types)
        count = int(types["down"].dims[0])
        read = min(count, call.size(types["experts"].dims))
        return super().nbytes(types, call) - stacks + stacks // count * read


class MoeExperts(_Experts):
    """Σ weightₖ · down(fn(gate x) · up x) over the experts of each token.

    ``gate_up`` is ``[X, 2F, E]``, laid out gate | up, and ``down`` ``[X, E, F]``. With
    ``weigh`` input an expert reads weightₖ · x, and what it makes is added as it is.
    Both products may have biases. Without ``gated`` an expert is down(fn(up x)), and
    ``gate_up`` is ``[X, F, E]``. With ``alpha`` and ``limit`` fn is replaced: gate, at
    most ``limit``, times sigmoid(alpha · gate), times up, within ± ``limit``, plus 1.
    With ``limit`` alone fn(gate), or with ``cut`` gate itself, is at most that, and up
    within ± that (``soft``: see ``clamped_glu``). Experts beyond the X of the stacks,
    ``zero_experts`` of them, make of x what it is.
    """

    mnemonic = "moe_experts"

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return self.made(types, types["gate_up"], types["down"])


class QuantizedExperts(_Experts):
    """Experts as in moe_experts, whose weights are codes in stacks.

    Of each matrix of a stack codes, scales and what goes with them are as
    :mod:`glmc.ir.ops.quantized` says, and scales have a dimension of groups, if of one.
    """

    mnemonic = "quantized_experts"
    stacks = tuple(
        f"{matrix}{part}"
        for matrix in ("gate_up", "down")
        for part in ("", "_scale", "_zeros", "_factor")
    )
    gate_up_scale: Param
    down_scale: Param
    gate_up_zeros: Param | None = None
    down_zeros: Param | None = None
    gate_up_factor: Param | None = None
    down_factor: Param | None = None
    bits: int
    floats: Floats = None
    divided: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return self.made(types, *(self._floats(types, n) for n in ("gate_up", "down")))

    def _floats(self, types: Types, matrix: str) -> TensorType:
        """Check the parts of a stack; return the type of the floats they stand for."""
        parts = {"weight": types[matrix], "x": types["x"]}
        for part in ("scale", "zeros", "factor"):
            if found := types.get(f"{matrix}_{part}"):
                parts[part] = found
        return stack_type(parts, self.bits, self.floats)
