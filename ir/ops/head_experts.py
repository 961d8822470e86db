"""Mixtures of attention heads (arXiv:2210.05144): queries and outputs of experts.

Every expert has a query for each KV head; all experts of a token read the same keys and
values. Query head ``n · k + j`` is that of a token's j-th expert for KV head n, k being
how many experts a token has.
"""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.types import TensorType


def _chosen(types: Types) -> int:
    """Return the number of experts of a token."""
    experts, x = types["experts"], types["x"]
    fits = experts.dims[:-1] == x.dims[:2]
    expect(fits, f"experts {experts} do not fit {x}")
    return int(experts.dims[-1])


class ExpertQueries(Op):
    """x ``[B,T,E]`` through the matrices of its experts, ``[X,K·D,E]``, to query heads
    ``[B,T,K·k,D]``."""

    mnemonic = "expert_queries"
    multiplies = True
    x: Value
    experts: Value
    weight: Param
    kv_heads: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight = types["x"], types["weight"]
        expect(len(weight.dims) == 3, f"weight must have 3 dims, not {weight}")
        _, rows, read = weight.dims
        expect(read == x.dims[-1], f"{x} does not multiply {weight}")
        width, rest = divmod(int(rows), self.kv_heads)
        expect(rest == 0, f"{weight} does not make {self.kv_heads} heads")
        return (x.with_last(self.kv_heads * _chosen(types), width),)

    def flops(self, types: Types, call: Call) -> int:
        """Count a product for each expert of a token."""
        return 2 * call.size(types["experts"].dims) * _matrix(types, call)


class ExpertOutputs(Op):
    """Σ weightⱼ · W x over the experts of a token: of ``[B,T,K·k·D]`` each of the
    matrices ``[X,E,K·D]`` reads the heads of its expert."""

    mnemonic = "expert_outputs"
    multiplies = True
    x: Value
    experts: Value
    weights: Value
    weight: Param
    kv_heads: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, weight, weights = types["x"], types["weight"], types["weights"]
        fits = weights.dims == types["experts"].dims
        expect(fits, f"weights {weights} do not fit the experts")
        expect(len(weight.dims) == 3, f"weight must have 3 dims, not {weight}")
        _, out, read = weight.dims
        wanted = int(read) * _chosen(types)
        expect(wanted == x.dims[-1], f"{x} does not multiply {weight}")
        expect(int(read) % self.kv_heads == 0, f"{weight} does not read heads")
        return (x.with_last(out),)

    def flops(self, types: Types, call: Call) -> int:
        """Count a product for each expert of a token."""
        return 2 * call.size(types["experts"].dims) * _matrix(types, call)


def _matrix(types: Types, call: Call) -> int:
    return call.size(types["weight"].dims[1:])
