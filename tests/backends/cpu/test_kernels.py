"""Every C++ kernel against the reference: ranges of sizes, each set of instructions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from glmc.backends.runtime.quantization import pack_codes
from glmc.backends.torch import ops
from glmc.backends.torch.ops.elementwise import ACTIVATIONS
from glmc.backends.torch.ops.rope import cos_sin, default_frequencies
from support.cpu.kernels import (
    FUNCTIONS,
    STYLES,
    Kernels,
    Mistake,
    compiled,
    levels,
)
from support.kernels import examples, filled_cache, random
from support.ranges import first

WIDE = torch.float32
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
CASES = [f"{level} {dtype}" for level in levels() for dtype in ("bfloat16", "float32")]
CASES += [f"{levels()[0]} float16"]


@pytest.fixture(params=first(2, CASES))
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    level, dtype = request.param.split()
    made = compiled(level, getattr(torch, dtype))
    made.threads = 2
    return made


def near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Equal within the tolerance of a dtype, relative to the largest value."""
    scale = max(1.0, float(expected.float().abs().max()))
    difference = float((found - expected.float()).abs().max())
    assert difference <= TOLERANCE[dtype] * scale, difference


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9, 25, 60])
@pytest.mark.parametrize(("out", "columns"), [(16, 32), (33, 70), (160, 514), (5, 2)])
def test_products(kernels: Kernels, rows: int, out: int, columns: int) -> None:
    dtype = kernels.dtype
    x = random(1, rows, columns, dtype=dtype, seed=1)
    weight = random(out, columns, dtype=dtype, seed=2) / math.sqrt(columns)
    bias = random(out, dtype=dtype, seed=3)
    for given_bias in (None, bias):
        exact = None if given_bias is None else given_bias.double()
        expected = F.linear(x.double(), weight.double(), exact)
        near(kernels.linear(x.float(), weight, given_bias), expected, dtype)


@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (50, 18), (1, 2)])
def test_packing_is_undone(kernels: Kernels, rows: int, columns: int) -> None:
    weight = random(rows, columns, dtype=kernels.dtype, seed=4)
    packed = kernels.weight(weight)
    assert torch.equal(packed.unpacked(), weight)
    ids = torch.tensor([[0, rows - 1, rows // 2]])
    y = torch.empty(1, 3, columns)
    kernels.call("embedding", [y], packed.blocks, rows, ids=ids.data_ptr())
    assert torch.equal(y, weight[ids].float())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("out", "columns", "group"),
    [(16, 64, 32), (37, 192, 96), (5, 512, 256), (33, 8, 8)],
)
def test_products_of_codes(
    kernels: Kernels, bits: int, zeros: bool, out: int, columns: int, group: int
) -> None:
    coded(kernels, bits, zeros, out, columns, group)


def coded(
    kernels: Kernels, bits: int, zeros: bool, out: int, columns: int, group: int
) -> None:
    """Compare products of codes with those of the weights that they stand for."""
    dtype, half = kernels.dtype, 1 << bits - 1
    generator = torch.Generator().manual_seed(bits)

    def codes(*shape: int) -> torch.Tensor:
        made = torch.randint(-half, half, shape, generator=generator)
        return made.to(torch.int8)

    values, groups = codes(out, columns), columns // group
    scale = random(out, groups, dtype=dtype, seed=20).abs() / half / columns**0.5
    shift = codes(out, groups) if zeros else None
    exact = values.double()
    if shift is not None:
        exact = exact - shift.double().repeat_interleave(group, 1)
    exact = exact * scale.double().repeat_interleave(group, 1)
    bias = random(out, dtype=dtype, seed=21)
    packed = [
        None if one is None else kernels.weight(one, kind)
        for one, kind in (
            (pack_codes(values, bits), f"codes{bits}"),
            (scale, "scales"),
            (shift, "zeros"),
        )
    ]
    weight, gains, zero = (None if one is None else one.blocks for one in packed)
    for one, before in zip(
        packed, (pack_codes(values, bits), scale, shift), strict=True
    ):
        assert one is None or (
            before is not None and torch.equal(one.unpacked(), before)
        )
    for rows in (1, 3, 13):
        x = random(1, rows, columns, dtype=WIDE, seed=22)
        y = torch.full((1, rows, out), torch.nan)
        more = weight, out, bits, gains, zero, groups, bias
        kernels.call("quantized_linear", [y, x], *more)
        expected = F.linear(x.double(), exact, bias.double())
        # Integers of 15 bits: better than bf16, and than fp16.
        assert float((y - expected).abs().max()) <= 4e-4
    if groups == 1 and not zeros:
        ids = torch.tensor([[0, out - 1]])
        y = torch.empty(1, 2, columns)
        given = weight, out, bits, gains
        kernels.call("quantized_embedding", [y], *given, ids=ids.data_ptr())
        assert torch.allclose(y, exact[ids].float())


def test_numbers_that_are_none_stay_none_in_codes(kernels: Kernels) -> None:
    weight = kernels.weight(
        pack_codes(torch.ones(16, 64, dtype=torch.int8), 8), "codes8"
    )
    scale = torch.ones(16, 2, dtype=kernels.dtype)
    gains = kernels.weight(scale, "scales")
    for bad in (math.nan, math.inf):
        x = torch.zeros(1, 3, 64)
        x[0, 1, 40] = bad
        y = torch.empty(1, 3, 16)
        more = weight.blocks, 16, 8, gains.blocks, None, 2, None
        kernels.call("quantized_linear", [y, x], *more)
        assert y[0, 1].isnan().all()
        assert not y[0, ::2].any()


@pytest.mark.parametrize("width", [7, 16, 50, 256])
@pytest.mark.parametrize("unit", [False, True])
def test_norms(kernels: Kernels, width: int, unit: bool) -> None:
    dtype = kernels.dtype
    x = random(2, 3, 4, width, dtype=dtype, seed=5)
    weight, bias = (random(width, dtype=dtype, seed=s) for s in (6, 7))
    y = torch.empty(x.shape)
    kernels.call("rms_norm", [y, x.float()], weight, 1e-5, unit)
    expected = ops.rms_norm(
        x.float(), weight.float(), eps=1e-5, weight_in="f32", unit_offset=unit
    )
    near(y, expected, WIDE)
    kernels.call("layer_norm", [y, x.float()], weight, bias, 1e-5, unit)
    expected = ops.layer_norm(
        x.float(), weight.float(), bias=bias.float(), eps=1e-5, unit_offset=unit
    )
    near(y, expected, WIDE)


@pytest.mark.parametrize("width", [3, 16, 37])
def test_what_goes_channel_by_channel(kernels: Kernels, width: int) -> None:
    a, b = (2 * random(2, 3, width, dtype=WIDE, seed=s) for s in (8, 9))
    pair = torch.cat((a, b), -1)
    y, joined = torch.empty(a.shape), torch.empty(pair.shape)

    def gives(op: int, expected: torch.Tensor, *x: torch.Tensor, **given: Any) -> None:
        out = joined if expected.shape == joined.shape else y
        number, fn = given.get("number", 0.0), given.get("fn", 0)
        kernels.call("pointwise", [out, *x], op, fn, number)
        near(out, expected, WIDE)

    gives(0, a + b, a, b)
    gives(1, a * b, a, b)
    for fn, name in enumerate(FUNCTIONS):
        if name in ACTIVATIONS:
            gives(2, ops.activation(a, fn=name), a, fn=fn)
            gives(3, ops.act_mul(pair, fn=name), pair, fn=fn)
        else:
            gives(4, ops.gate(a, b, fn=name), a, b, fn=fn)
            heads = random(2, 3, 1, dtype=WIDE, seed=10)
            gives(4, ops.gate(a, heads, fn=name), a, heads, fn=fn)
    gives(5, ops.scale(a, factor=0.3), a, number=0.3)
    rounded = torch.tensor(0.3).to(kernels.dtype).float()
    gives(6, a * rounded, a, number=0.3)
    gives(7, ops.clamp(a, limit=0.5), a, number=0.5)
    gives(8, ops.soft_cap(a, cap=1.5), a, number=1.5)
    gives(9, pair, a, b)
    factor = random(2, 3, 1, dtype=WIDE, seed=11)
    gives(10, a * factor, a, factor)
    gives(11, torch.zeros_like(a), a)


def test_what_is_no_number_stays_none(kernels: Kernels) -> None:
    x = torch.tensor([[[math.nan, 1e4, -1e4, 100.0, -100.0, 0.0]]])
    y = torch.empty(x.shape)
    for fn, name in enumerate(FUNCTIONS[:7]):
        kernels.call("pointwise", [y, x], 2, fn, 0.0)
        assert torch.allclose(y, ops.activation(x, fn=name), equal_nan=True), name


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("width", "pairs", "sections"), [(18, 8, 1), (21, 6, 2)])
def test_rope(
    kernels: Kernels, style: str, width: int, pairs: int, sections: int
) -> None:
    pos = torch.tensor([[0, 5, 40000], [3, 4, 131071]])
    frequencies = default_frequencies(2 * pairs, 10000.0, torch.device("cpu"))
    tables = [torch.empty(2, 3, pairs) for _ in range(2)]
    kernels.call("rope_table", tables, frequencies, 1.5, pos=pos.data_ptr())
    for table, expected in zip(tables, cos_sin(pos, frequencies, 1.5), strict=True):
        near(table, expected, WIDE)
    x = random(2, 3, 4, width, dtype=WIDE, seed=12)
    y = torch.empty(x.shape)
    for begin in (0, 2):
        kernels.call("rope", [y, x, *tables], STYLES.index(style), sections, begin, 0)
        expected = ops.rope(x, *tables, style=style, sections=sections, first=begin)
        near(y, expected, WIDE)
    kernels.call("rope", [y, x, *tables], STYLES.index(style), 1, 0, True)
    near(y, ops.rope(x, *tables, style=style, reverse=True), WIDE)


MASKS: list[dict[str, Any]] = [
    {},
    {"window": 5},
    {"chunk": 7},
    {"softcap": 2.0},
    {"slopes": True},
    {"sinks": True},
    {"learned": 3},
    {"prefix": True},
    {"window": 20, "sinks": True, "softcap": 3.0},
]


@examples(24, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mask=st.sampled_from(MASKS),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1), (40, 1)]),
    widths=st.sampled_from([(16, 16), (64, 64), (10, 24), (192, 128)]),
    past=st.sampled_from([0, 1, 17, 300]),
    tokens=st.sampled_from([1, 2, 9, 70]),
    padded=st.booleans(),
)
def test_attention(
    kernels: Kernels,
    mask: dict[str, Any],
    heads: tuple[int, int],
    widths: tuple[int, int],
    past: int,
    tokens: int,
    padded: bool,
) -> None:
    attends(kernels, mask, heads, widths, past, tokens, padded)


def attends(
    kernels: Kernels,
    mask: dict[str, Any],
    heads: tuple[int, int],
    widths: tuple[int, int],
    past: int,
    tokens: int,
    padded: bool,
) -> None:
    """Compare attention with the reference's, write and all."""
    dtype, (many, few) = kernels.dtype, heads
    options = dict(mask)
    past = max(past, options.get("learned", 0))
    start = [0, min(2 + options.get("learned", 0), past + tokens - 1)]
    cache = filled_cache(
        (few, *widths), batch=2, past=past, tokens=tokens, dtype=dtype,
        start=start if padded else None,
    )  # fmt: skip
    if options.pop("slopes", None):
        options["slopes"] = random(many, dtype=WIDE, seed=13).abs() / 8
    if options.pop("sinks", None):
        options["sinks"] = random(many, dtype=dtype, seed=14)
    if options.pop("prefix", None):
        seen = max(1, (past + tokens) // 2)
        options["prefix"] = torch.tensor([seen, past + tokens], dtype=torch.int32)
    q = random(2, tokens, many, widths[0], dtype=dtype, seed=15)
    k = random(2, tokens, few, widths[0], dtype=dtype, seed=16)
    v = random(2, tokens, few, widths[1], dtype=dtype, seed=17)
    scale = widths[0] ** -0.5
    kernels.call("kv_write", [k.float(), v.float()], kernels.kept(cache), cache=cache)
    (kv,) = cache.own
    written = slice(past, past + tokens)
    assert torch.equal(kv.keys[:, :, written], k.transpose(1, 2))
    assert torch.equal(kv.values[:, :, written], v.transpose(1, 2))
    found = kernels.attention(q.float(), cache, scale=scale, **options)
    kv.keys, kv.values = kv.keys.double(), kv.values.double()
    exact = {
        name: value.double() if name == "sinks" else value
        for name, value in options.items()
    }
    expected = ops.attention(q.double(), kv, scale=scale, **exact)
    real = torch.ones(2, tokens, dtype=torch.bool)
    if padded:
        slots = torch.arange(past, past + tokens)
        real = slots >= torch.tensor(start)[:, None]
    near(found[real], expected[real], dtype)
    assert not found.isnan().any()


def test_a_long_cache_is_cut_into_parts(kernels: Kernels) -> None:
    for tokens in (1, 3):
        attends(kernels, {"sinks": True}, (4, 1), (32, 32), 1500, tokens, True)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_each_chunk_once(kernels: Kernels, threads: int) -> None:
    assert kernels.library.try_pool(threads, 37, 3000) == 666


MISTAKES: list[tuple[Mistake, Any]] = [
    (
        ("codes.h", "whole(-HALF * sum_of(m))", "whole(-HALF)"),
        lambda k: coded(k, 4, False, 16, 64, 32),
    ),
    (
        ("codes.h", "total -= zero * float(sum_of(m))", "total -= zero"),
        lambda k: coded(k, 8, True, 16, 64, 32),
    ),
    (
        ("product.h", "if (with.bias) sums +=", "if (with.bias) sums -="),
        lambda k: test_products(k, 3, 33, 70),
    ),
    (
        ("norms.h", "gain + 1.0f", "gain + 1.01f"),
        lambda k: test_norms(k, 16, True),
    ),
    (
        ("elementwise.h", "1.702f * x", "1.7f * x"),
        lambda k: test_what_goes_channel_by_channel(k, 37),
    ),
    (
        ("rope.h", "with.reverse ? -1 : 1", "with.reverse ? 1 : 1"),
        lambda k: test_rope(k, "half", 18, 8, 1),
    ),
    (
        ("attention.h", "slot + 1 - with.window", "slot - with.window"),
        lambda k: attends(k, {"window": 5}, (4, 2), (16, 16), 17, 9, False),
    ),
    (
        ("attention.h", "total += weight * parts[i].total", "total += parts[i].total"),
        lambda k: attends(k, {}, (4, 1), (16, 16), 1500, 1, False),
    ),
]


@pytest.mark.parametrize(("mistake", "check"), first(1, MISTAKES))
def test_a_mistake_is_seen(mistake: Mistake, check: Any) -> None:
    right, wrong = (compiled(levels()[0], WIDE, one) for one in (None, mistake))
    check(right)
    with pytest.raises(AssertionError):
        check(wrong)
