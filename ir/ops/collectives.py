"""Ops between ranks that compute one model together, and ops of one rank's part."""

from glmc.ir.cost import Call
from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.ops.elementwise import ZerosLike
from glmc.ir.ops.norms import (
    RMS_FLOPS,
    AddLayerNorm,
    AddRmsNorm,
    WeightIn,
    expect_vectors,
)
from glmc.ir.placing import Fixed, Rows
from glmc.ir.types import TensorType

_SUMMED_AND_NORMED = Fixed({"y": "partial"}, ("replicated", "replicated"))


def _resized(x: TensorType, dim: int, size: int) -> TensorType:
    """Return a type with another size of one dimension."""
    expect(dim in range(len(x.dims)), f"{x} has no dimension {dim}")
    return TensorType(dtype=x.dtype, dims=(*x.dims[:dim], size, *x.dims[dim + 1 :]))


def _part(x: TensorType, dim: int, ranks: int) -> TensorType:
    """Return the type of one rank's part of a dimension."""
    expect(dim in range(len(x.dims)), f"{x} has no dimension {dim}")
    size = x.dims[dim]
    fits = isinstance(size, int) and size % ranks == 0
    expect(fits, f"{x} cannot be dealt to {ranks} ranks along dimension {dim}")
    return _resized(x, dim, int(size) // ranks)


def _summed(nbytes: int, ranks: int) -> int:
    """Count every part of a tensor twice: once to be summed, once the sum."""
    return 2 * nbytes * (ranks - 1) // ranks


class AllReduce(Op):
    """The sum of every rank's x, on all ranks."""

    mnemonic = "all_reduce"
    placing = Fixed({"x": "partial"}, ("replicated",))
    ranked = True
    x: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (types["x"],)

    def sent(self, types: Types, call: Call, ranks: int) -> int:
        """See :func:`_summed`."""
        return _summed(call.nbytes(types["x"]), ranks)


class AllGather(Op):
    """Every rank's part of dimension ``dim`` one after the other, on all ranks, and of
    that the first ``size``."""

    mnemonic = "all_gather"
    placing = Fixed({"x": "shard"}, ("replicated",))
    ranked = True
    x: Value
    dim: int
    ranks: int
    size: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x = types["x"]
        made = _resized(x, self.dim, self.size)
        all_parts = int(x.dims[self.dim]) * self.ranks
        fits = all_parts - int(x.dims[self.dim]) < self.size <= all_parts
        expect(fits, f"{self.ranks} parts {x} do not make {self.size}")
        return (made,)

    def flops(self, types: Types, call: Call) -> int:
        """Return 0: parts are copied."""
        return 0

    def sent(self, types: Types, call: Call, ranks: int) -> int:
        """Count this rank's part, which every part passes through."""
        return call.nbytes(types["x"]) * (ranks - 1)


class ReduceScatter(Op):
    """This rank's part of dimension ``dim`` of the sum of every rank's x."""

    mnemonic = "reduce_scatter"
    placing = Fixed({"x": "partial"}, ("shard",))
    ranked = True
    x: Value
    dim: int
    ranks: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (_part(types["x"], self.dim, self.ranks),)

    def sent(self, types: Types, call: Call, ranks: int) -> int:
        """Count the parts of the other ranks."""
        return call.nbytes(types["x"]) * (ranks - 1) // ranks


class ReduceAddRmsNorm(AddRmsNorm):
    """s = x + Σ y, over every rank's y, and rms_norm(s), on all ranks."""

    mnemonic = "reduce_add_rms_norm"
    placing = _SUMMED_AND_NORMED
    ranked = True
    between = ("y",)

    def sent(self, types: Types, call: Call, ranks: int) -> int:
        """See :func:`_summed`."""
        return _summed(call.nbytes(types["y"]), ranks)


class ReduceAddLayerNorm(AddLayerNorm):
    """s = x + Σ y, over every rank's y, and layer_norm(s), on all ranks."""

    mnemonic = "reduce_add_layer_norm"
    placing = _SUMMED_AND_NORMED
    ranked = True
    between = ("y",)

    def sent(self, types: Types, call: Call, ranks: int) -> int:
        """See :func:`_summed`."""
        return _summed(call.nbytes(types["y"]), ranks)


class ZerosSummand(ZerosLike):
    """Zeros of x's type as every rank's summand, which the first layer receives."""

    mnemonic = "zeros_summand"
    placing = Fixed({}, ("partial",))
    ranked = True


class OwnPart(Op):
    """This rank's part of dimension ``dim`` of x; ``copies`` ranks after one another
    have the same."""

    mnemonic = "own_part"
    placing = Fixed({}, ("shard",))
    ranked = True
    is_view = True
    x: Value
    dim: int
    ranks: int
    copies: int = 1

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        fits = self.copies > 0 and self.ranks % self.copies == 0
        expect(fits, f"{self.copies} of {self.ranks} ranks cannot have the same")
        return (_part(types["x"], self.dim, self.ranks // self.copies),)


class OwnRows(Op):
    """y[b,t] = row ids[b,t] of a table of which each rank has its part of rows, and
    zeros for the rows of other ranks."""

    mnemonic = "own_rows"
    placing = Rows()
    ranked = True
    ids: Value
    weight: Param

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        ids, weight = types["ids"], types["weight"]
        expect(ids.dtype == "i64", f"ids must be i64, not {ids}")
        expect(len(weight.dims) == 2, f"weight must have 2 dims, not {weight}")
        return (TensorType(dtype=weight.dtype, dims=(*ids.dims, weight.dims[1])),)

    def flops(self, types: Types, call: Call) -> int:
        """Return 0: rows are copied."""
        return 0

    def nbytes(self, types: Types, call: Call) -> int:
        """Count the ids, and their rows of the table read and written."""
        rows = call.nbytes(self.results[0].type)
        return call.nbytes(types["ids"]) + 2 * rows


class OwnWeights(Op):
    """The weights of a router's choices; those of experts from ``first`` on, which have
    no matrices and are no rank's, are 0 on all ranks but the first."""

    mnemonic = "own_weights"
    placing = Fixed({}, ("partial",))
    ranked = True
    experts: Value
    weights: Value
    first: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        experts, weights = types["experts"], types["weights"]
        expect(experts.dims == weights.dims, f"{experts} do not go with {weights}")
        return (weights,)


class OwnExperts(Op):
    """The choices of a router, counted among the ``count`` experts of this rank; those
    of other ranks are the first one, with the weight 0. Experts from ``first`` on, if
    given, have no matrices, and are the first rank's after its own."""

    mnemonic = "own_experts"
    placing = Fixed({}, ("partial", "partial"))
    ranked = True
    experts: Value
    weights: Value
    count: int
    first: int | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        experts, weights = types["experts"], types["weights"]
        expect(experts.dims == weights.dims, f"{experts} do not go with {weights}")
        expect(self.count > 0, "a rank has no experts")
        return (experts, weights)


class SquareSum(Op):
    """Σ x² over this rank's part of the last dimension, in fp32: ``[..., 1]``."""

    mnemonic = "square_sum"
    placing = Fixed({"x": "shard"}, ("partial",))
    ranked = True
    x: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        return (TensorType(dtype="f32", dims=types["x"].with_last(1).dims),)

    def flops(self, types: Types, call: Call) -> int:
        """Count square and sum of each element."""
        return 2 * call.size(types["x"].dims)


class RmsNormPart(Op):
    """This rank's part of an RMSNorm over ``width`` channels, of which ``squares`` is
    the sum of all squares: x / sqrt(squares / width + eps) · w.

    ``weight_in`` and ``unit_offset`` are those of ``rms_norm``.
    """

    mnemonic = "rms_norm_part"
    placing = Fixed({"x": "shard", "weight": "shard"}, ("shard",))
    ranked = True
    x: Value
    squares: Value
    weight: Param
    width: int
    eps: float
    weight_in: WeightIn = "input"
    unit_offset: bool = False

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, squares = types["x"], types["squares"]
        expect_vectors(x, types["weight"])
        wanted = TensorType(dtype="f32", dims=x.with_last(1).dims)
        expect(squares == wanted, f"{squares} is not {wanted}")
        return (x,)

    def flops(self, types: Types, call: Call) -> int:
        """See :data:`RMS_FLOPS`; squares are summed already."""
        return (RMS_FLOPS - 2) * call.size(types["x"].dims)
