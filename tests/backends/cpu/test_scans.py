"""Kernels in C++ of scans, and of what stands around them, against the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from glmc.backends.torch import ops
from support.cpu.kernels import FUNCTIONS, Kernels, Mistake, compiled, levels
from support.cpu.layers import CASES, PADDED, WIDE, began, near, pointer, row_state
from support.kernels import random
from support.ranges import first


@pytest.fixture(params=first(2, CASES))
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    level, dtype = request.param.split()
    made = compiled(level, getattr(torch, dtype))
    made.threads = 2
    return made


@pytest.mark.parametrize(("past", "tokens", "start"), PADDED)
@pytest.mark.parametrize(("width", "taps", "fn"), [(32, 4, "silu"), (21, 3, None)])
def test_short_convolutions(
    kernels: Kernels,
    past: int,
    tokens: int,
    start: list[int] | None,
    width: int,
    taps: int,
    fn: str | None,
) -> None:
    convolves(kernels, past, tokens, start, width, taps, fn)


def convolves(
    kernels: Kernels,
    past: int,
    tokens: int,
    start: list[int] | None,
    width: int,
    taps: int,
    fn: str | None,
) -> None:
    """Compare results and what is kept."""
    dtype = kernels.dtype
    x = random(2, tokens, width, dtype=dtype, seed=11)
    weight, bias = (random(*s, dtype=dtype, seed=12) for s in ((width, taps), (width,)))
    begin = random(2, width, taps, dtype=dtype, seed=13) * (past > 0)
    kept, first_ = begin.clone(), began(start)
    y = torch.full(x.shape, torch.nan)
    number = -1 if fn is None else FUNCTIONS.index(fn)
    more = weight, kept, taps, bias, number
    given = {"past": past, "start": pointer(first_)}
    kernels.call("short_conv", [y, x.float()], *more, **given)
    state = row_state(begin.double(), past, first_)
    expected, _ = ops.short_conv(
        x.double(), weight.double(), state, bias=bias.double(), fn=fn
    )
    near(y, expected, dtype)
    near(kept.float(), state.rows, dtype)


KINDS = [(True, False), (False, True), (True, True), (False, False)]
SIZES = [((4, 2), 16, 16), ((2, 2), 24, 64), ((3, 1), 8, 32), ((2, 1), 10, 21)]


@pytest.mark.parametrize(("past", "tokens", "start"), PADDED)
@pytest.mark.parametrize(("heads", "keys", "width"), first(2, SIZES))
@pytest.mark.parametrize(("corrects", "each"), first(2, KINDS))
def test_scans(
    kernels: Kernels,
    past: int,
    tokens: int,
    start: list[int] | None,
    heads: tuple[int, int],
    keys: int,
    width: int,
    corrects: bool,
    each: bool,
) -> None:
    scans(kernels, past, tokens, start, heads, keys, width, corrects, each)


def scans(
    kernels: Kernels,
    past: int,
    tokens: int,
    start: list[int] | None,
    heads: tuple[int, int],
    keys: int,
    width: int,
    corrects: bool,
    each: bool,
) -> None:
    """Compare results and states of a scan."""
    many, few = heads
    q, k = (random(2, tokens, few, keys, dtype=WIDE, seed=s) for s in (14, 15))
    q, k = (one / one.norm(dim=-1, keepdim=True) for one in (q, k))
    v = random(2, tokens, many, width, dtype=WIDE, seed=16)
    decays = (2, tokens, many, keys) if each else (2, tokens, many)
    g = -random(*decays, dtype=WIDE, seed=17).abs()
    beta = random(2, tokens, many, dtype=WIDE, seed=18).sigmoid()
    begin = random(2, many, keys, width, dtype=WIDE, seed=19) * (past > 0)
    kept, first_ = begin.clone(), began(start)
    y = torch.full((2, tokens, many * width), torch.nan)
    given = {"past": past, "start": pointer(first_)}
    values = [y, q, k, v, g, beta]
    kernels.call("scan", values, kept, keys, width, 0.5, int(corrects), **given)
    strength = beta if corrects else None
    state = row_state(begin.clone(), past, first_)
    expected, _ = ops.scan(q, k, v, g, state, beta=strength, scale=0.5)
    real = torch.ones(2, tokens, dtype=torch.bool)
    if first_ is not None:
        real = torch.arange(past, past + tokens) >= first_[:, None]
    near(y[real], expected[real], WIDE)
    assert not y.isnan().any()
    near(kept, state.rows, WIDE)


@pytest.mark.parametrize(("past", "tokens", "start"), PADDED)
@pytest.mark.parametrize(("channels", "n"), [(5, 16), (40, 20)])
def test_selective_scans(
    kernels: Kernels,
    past: int,
    tokens: int,
    start: list[int] | None,
    channels: int,
    n: int,
) -> None:
    selects(kernels, past, tokens, start, channels, n)


def selects(
    kernels: Kernels,
    past: int,
    tokens: int,
    start: list[int] | None,
    channels: int,
    n: int,
) -> None:
    """Compare results and states of a scan of channels."""
    v, step = (random(2, tokens, channels, dtype=WIDE, seed=s) for s in (20, 21))
    k, q = (random(2, tokens, n, dtype=WIDE, seed=s) for s in (22, 23))
    a_log = random(channels, n, dtype=WIDE, seed=24)
    skip = random(channels, dtype=WIDE, seed=25)
    begin = random(2, channels, n, dtype=WIDE, seed=26) * (past > 0)
    kept, first_ = begin.clone(), began(start)
    y = torch.full(v.shape, torch.nan)
    values, given = [y, v, step.abs(), k, q], {"past": past, "start": pointer(first_)}
    kernels.call("selective_scan", values, a_log, skip, kept, **given)
    state = row_state(begin.clone(), past, first_)
    expected, _ = ops.selective_scan(v, step.abs(), k, q, a_log, skip, state)
    near(y, expected, WIDE)
    near(kept, state.rows, WIDE)


@pytest.mark.parametrize("width", [1, 7, 16])
def test_what_stands_around_scans(kernels: Kernels, width: int) -> None:
    around(kernels, width)


def around(kernels: Kernels, width: int) -> None:
    """Compare what is computed head by head or channel by channel."""
    x = random(2, 3, 4, width, dtype=WIDE, seed=27)
    heads = random(2, 3, 4, dtype=WIDE, seed=28)
    own, bias = random(4, dtype=WIDE, seed=29), random(4 * width, dtype=WIDE, seed=30)
    flat, y = x.flatten(2), torch.empty(x.shape)

    def gives(op: int, expected: torch.Tensor, *values: torch.Tensor, **n: Any) -> None:
        out = y.view(expected.shape)
        numbers = n.get("number", 0.0), n.get("high", math.inf)
        kernels.call("around_scan", [out, *values], op, own, bias, *numbers)
        near(out, expected, WIDE)

    gives(0, ops.l2_normalize(x, eps=1e-3), x, number=1e-3)
    limits = {"low": 0.5, "high": 0.9}
    expected = ops.step_size(flat, bias=bias, **limits)
    gives(1, expected, flat, number=0.5, high=0.9)
    gives(2, ops.decay(flat, own).flatten(2), flat)
    bounded = ops.bounded_decay(flat, own, bias=bias, floor=-5.0)
    gives(3, bounded.flatten(2), flat, number=-5.0)
    gives(4, ops.sigmoid(flat, factor=2.0), flat, number=2.0)
    gives(5, ops.scale_each(x, heads), x, heads)
    gives(6, ops.add_skip(flat, x, own), flat, x)
    experts = torch.randint(0, 4, (2, 3, 4 * width))
    gives(7, ops.scale_experts(flat, experts, own), flat, experts.float())


@pytest.mark.parametrize("order", ["norm_first", "gate_first"])
@pytest.mark.parametrize(
    ("width", "groups", "shared"), [(32, 1, 1), (36, 3, 3), (40, 2, 1)]
)
@pytest.mark.parametrize("fn", ["silu", "sigmoid"])
def test_gated_norms(
    kernels: Kernels, order: str, width: int, groups: int, shared: int, fn: str
) -> None:
    gates(kernels, order, width, groups, shared, fn)


def gates(
    kernels: Kernels, order: str, width: int, groups: int, shared: int, fn: str
) -> None:
    """Compare norms of equal parts with a gate."""
    x, z = (random(2, 3, width, dtype=WIDE, seed=s) for s in (31, 32))
    weight = random(width // shared, dtype=kernels.dtype, seed=33)
    y = torch.empty(x.shape)
    number = ("norm_first", "gate_first").index(order)
    more = weight, len(weight), 1e-5, FUNCTIONS.index(fn), number, groups
    kernels.call("gated_norm", [y, x, z], *more)
    given: dict[str, Any] = {"order": order, "groups": groups, "fn": fn, "eps": 1e-5}
    expected = ops.gated_norm(x, z, weight.float(), **given, weight_in="f32")
    near(y, expected, WIDE)


MISTAKES: list[tuple[Mistake, Any]] = [
    (
        ("recurrent.h", "slot % width * LANES, now", "(slot + 1) % width * LANES, now"),
        lambda k: convolves(k, 3, 9, None, 32, 4, "silu"),
    ),
    (
        ("recurrent.h", "(told[n] - known[n]) * strength", "told[n] * strength"),
        lambda k: scans(k, 3, 9, None, (4, 2), 16, 16, True, False),
    ),
    (
        ("recurrent.h", "head / (heads / (k.width / keys))", "head % (k.width / keys)"),
        lambda k: scans(k, 3, 9, None, (4, 2), 16, 16, False, False),
    ),
    (
        ("recurrent.h", "exponential(-rate * size)", "exponential(-rate)"),
        lambda k: selects(k, 3, 9, None, 5, 16),
    ),
    (
        ("recurrent.h", "with.floor / (1 + std::exp(-v))", "with.floor * v"),
        lambda k: around(k, 7),
    ),
    (
        ("recurrent.h", "weights == width ? 0 : group * width", "0"),
        lambda k: gates(k, "norm_first", 40, 2, 1, "silu"),
    ),
]


@pytest.mark.parametrize(("mistake", "check"), first(2, MISTAKES))
def test_a_mistake_is_seen(mistake: Mistake, check: Any) -> None:
    right, wrong = (compiled(levels()[0], WIDE, one) for one in (None, mistake))
    check(right)
    with pytest.raises(AssertionError):
        check(wrong)
