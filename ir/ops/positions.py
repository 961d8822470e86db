"""Ops on positions besides rope: tables that the stem makes for all layers."""

from typing import ClassVar

from glmc.ir.op import Op, Param, Types, Value, expect
from glmc.ir.placing import LINEAR, Pointwise
from glmc.ir.types import TensorType


def _positions(types: Types) -> TensorType:
    pos = types["pos"]
    expect(pos.dtype == "i64", f"positions must be i64, not {pos}")
    return pos


class Sinusoids(Op):
    """sin and then cos of pos · 10000^(-j/n), for j below half the width, in fp32.

    n is half the width, or one less if ``inclusive``: then 1/10000 is the last
    frequency itself (fairseq). Positions are counted from ``offset``.
    """

    mnemonic = "sinusoids"
    pos: Value
    dim: int
    inclusive: bool = False
    offset: int = 0

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        pos = _positions(types)
        expect(self.dim % 2 == 0, f"{self.dim} channels are not sines and cosines")
        return (TensorType(dtype="f32", dims=(*pos.dims, self.dim)),)


class AddTable(Op):
    """x + table, with the fp32 table rounded to x's dtype first."""

    mnemonic = "add_table"
    x: Value
    table: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, table = types["x"], types["table"]
        fits = table.dims == x.dims and table.dtype == "f32"
        expect(fits, f"{table} is no table for {x}")
        return (x,)


class Distances(Op):
    """A learned number for each head and each pair of slots, ``f32[heads,T,T]``, by how
    far the second is from the first: rows of ``table`` ``[buckets,heads]`` (T5).

    Half of the buckets are for slots before a query's own, half for those after. Half
    of each are exact; the others grow as logarithms up to ``furthest``.
    """

    mnemonic = "distances"
    exact: ClassVar[tuple[str, ...]] = ("table",)
    ids: Value
    table: Param
    buckets: int
    furthest: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        ids, table = types["ids"], types["table"]
        expect(len(table.dims) == 2, f"table must have 2 dims, not {table}")
        rows, heads = map(int, table.dims)
        fits = 4 <= self.buckets <= rows and self.buckets // 4 < self.furthest
        expect(fits, f"{self.buckets} buckets do not fit {table}")
        tokens = ids.dims[1]
        return (TensorType(dtype="f32", dims=(heads, tokens, tokens)),)


class AlibiSlopes(Op):
    """scale · 2^(-max_bias · (h + 1) / heads) for head h (arXiv:2108.12409).

    Of a number of heads that is no power of two, the first ones have the slopes of the
    power below it, the others every second slope of the power above. ``pos`` says
    only on which device the slopes are wanted.
    """

    mnemonic = "alibi_slopes"
    pos: Value
    heads: int
    max_bias: float = 8.0
    scale: float = 1.0

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        _positions(types)
        return (TensorType(dtype="f32", dims=(self.heads,)),)


class QueryScale(Op):
    """1 + beta · log(1 + floor((pos + shift) / context)), or with an exponent
    (1 + (pos + shift) / context) ^ exponent, in fp32."""

    mnemonic = "query_scale"
    pos: Value
    beta: float | None = None
    context: int
    shift: int = 0
    exponent: float | None = None

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        one = (self.beta is None) != (self.exponent is None)
        expect(one, "queries grow by beta or by an exponent")
        return (TensorType(dtype="f32", dims=_positions(types).dims),)


class ScaleHeads(Op):
    """x ``[B,T,n,D]`` times a number for each token, rounded to x's dtype first."""

    mnemonic = "scale_heads"
    placing = Pointwise(over=("x",), linear="first")
    x: Value
    scale: Value

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        x, scale = types["x"], types["scale"]
        fits = len(x.dims) == 4 and scale.dims == x.dims[:2]
        expect(fits, f"{scale} is not a number for each token of {x}")
        return (x,)


class LayerFactors(Op):
    """Constants ``f32[1,1,layers,n]``: a row of ``rows`` for each layer.

    ``pos`` says only on which device they are wanted.
    """

    mnemonic = "layer_factors"
    pos: Value
    rows: tuple[tuple[float, ...], ...]

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        _positions(types)
        widths = {len(row) for row in self.rows}
        expect(len(widths) == 1, "layers have different numbers of factors")
        dims = (1, 1, len(self.rows), *widths)
        return (TensorType(dtype="f32", dims=dims),)


class ScaleByFactor(Op):
    """x times one of the layer's factors ``f32[1,1,n]``, rounded to x's dtype."""

    mnemonic = "scale_by_factor"
    placing = LINEAR
    x: Value
    factors: Value
    at: int

    def infer(self, types: Types) -> tuple[TensorType, ...]:
        factors = types["factors"]
        fits = factors.dims[:2] == (1, 1) and 0 <= self.at < int(factors.dims[2])
        expect(fits, f"{factors} has no factor {self.at}")
        return (types["x"],)
