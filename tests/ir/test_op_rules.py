"""Every rule of an op holds at its boundary: what just fits is taken, what just does
not is refused, and the result has the shape and the dtype that it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from glmc.ir.op import OpTypeError
from glmc.ir.placing import PlacingError, typed
from glmc.ir.types import TensorType, Type
from support import layer_op_rules as layers
from support import op_rules as rules
from support.op_rules import CALL, Counted, Taken
from support.op_types import CLASSES, inferred, named, type_of, types_of, with_results

TAKEN = [*rules.TAKEN, *layers.TAKEN]
ANY_TENSOR = ("l2_normalize", "sigmoid")
"""Ops of one operand that take it whatever its dtype and shape."""


def others(of: Type) -> Iterator[Type]:
    """Types that an operand could be given instead, in a dump that was edited."""
    if isinstance(of, TensorType):
        for dims in (
            of.dims[:-1],
            of.dims[1:],
            (*of.dims, 2),
            (),
            (*of.dims[:-1], "T"),
            (*of.dims[:-1], 0),
            ("T",) * len(of.dims),
        ):
            yield TensorType(dtype=of.dtype, dims=dims)
        yield TensorType(dtype="i32", dims=of.dims)
    else:
        yield from map(type_of, ("f16[B,T,8]", "kv[1,1,1]", "token[3]"))


@pytest.mark.parametrize("case", TAKEN, ids=named)
def test_what_just_fits_is_taken(
    case: Taken,
) -> None:
    name, attributes, types, made = case
    assert inferred(name, attributes, types) == made


@pytest.mark.parametrize("case", [*rules.REFUSED, *layers.REFUSED], ids=named)
def test_what_just_does_not_is_refused(
    case: Taken,
) -> None:
    name, attributes, types, rule = case
    with pytest.raises(OpTypeError, match=rule):
        inferred(name, attributes, types)


@pytest.mark.parametrize("case", [*rules.FLOPS, *layers.FLOPS], ids=named)
def test_operations_are_those_counted_by_hand(
    case: Counted,
) -> None:
    name, attributes, types, count = case
    op = with_results(name, attributes, types)
    assert op.flops(types_of(types), CALL) == count


@pytest.mark.parametrize("case", [*rules.BYTES, *layers.BYTES], ids=named)
def test_bytes_are_those_counted_by_hand(
    case: Counted,
) -> None:
    name, attributes, types, count = case
    op = with_results(name, attributes, types)
    assert op.nbytes(types_of(types), CALL) == count


@pytest.mark.parametrize(
    "case",
    [
        (name, *rest)
        for name, *rest in TAKEN
        if name not in ANY_TENSOR and not CLASSES[name].ranked
    ],
    ids=named,
)
def test_whatever_an_operand_is_the_answer_is_types_or_a_refusal(
    case: Taken,
) -> None:
    name, attributes, texts, _ = case
    types = types_of(texts)
    op = CLASSES[name](results=(), **{key: key for key in types}, **attributes)
    refused = 0
    for key, of in types.items():
        for other in others(of):
            try:
                typed(op, {**types, key: other})
            except OpTypeError:
                refused += 1
    assert refused


@pytest.mark.parametrize("case", layers.SENT, ids=named)
def test_what_ranks_send_is_what_was_counted_by_hand(
    case: Counted,
) -> None:
    name, attributes, types, count = case
    op = with_results(name, attributes, types)
    assert op.sent(types_of(types), CALL, 3) == count


@pytest.mark.parametrize(
    "case",
    [case for case in TAKEN if case[0] in ("all_reduce", "all_gather", "square_sum")],
    ids=named,
)
def test_ops_of_ranks_are_refused_where_there_is_one(
    case: Taken,
) -> None:
    name, attributes, types, _ = case
    with pytest.raises(PlacingError, match=f"{name} takes x .* and it is replicated"):
        typed(with_results(name, attributes, types), types_of(types))


PRODUCTS = (
    *("attention", "block_attention", "full_attention", "latent_attention"),
    *("pooled_attention", "qkv_attention", "linear", "linear_act", "linear_add"),
    *("rms_norm_linear", "layer_norm_linear", "quantized_linear", "grouped_linear"),
    *("moe_experts", "expert_queries", "expert_outputs", "quantized_experts"),
    "block_linear",
    *("spread_streams", "gather_streams"),
)
"""Ops that are computed in the dtype of their operands; all others are in fp32."""


def test_products_are_of_their_operands_dtype() -> None:
    assert {name for name, kind in CLASSES.items() if kind.multiplies} == {*PRODUCTS}
    x = with_results("linear", {}, {"x": "f16[B,T,8]", "weight": "f16[6,8]"})
    types = types_of({"x": "f16[B,T,8]", "weight": "f16[6,8]"})
    assert x.cost(types, CALL).dtype == "f16"
    alone = types_of({"x": "f16[B,T,8]"})
    assert (
        with_results("sigmoid", {}, {"x": "f16[B,T,8]"}).cost(alone, CALL).dtype
        == "f32"
    )
