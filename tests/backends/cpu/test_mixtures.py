"""Kernels in C++ of mixtures and latents against the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from glmc.backends.torch import ops
from support.cpu.kernels import (
    FUNCTIONS,
    SCORES,
    Experts,
    Kernels,
    LatentAttention,
    Mistake,
    Router,
    compiled,
    levels,
)
from support.cpu.layers import CASES, PADDED, WIDE, began, near, pointer, row_state
from support.kernels import random
from support.ranges import first


@pytest.fixture(params=first(2, CASES))
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    level, dtype = request.param.split()
    made = compiled(level, getattr(torch, dtype))
    made.threads = 2
    return made


ROUTERS: list[dict[str, Any]] = [
    {"score": "softmax"},
    {"score": "softmax", "renormalise": True, "bias": True},
    {"score": "sigmoid", "correction": True, "renormalise": True, "scale": 2.5},
    {"score": "sigmoid", "correction": True, "groups": 4, "top_groups": 2},
    {"score": "softmax", "groups": 4, "top_groups": 2, "group_score": "max"},
    {"score": "softmax", "groups": 2, "top_groups": 1, "ineligible": "zero"},
    {"score": "logit", "after": "softmax", "softcap": 2.0},
    {"score": "logit", "after": "sigmoid"},
    {"score": "sqrt_softplus", "renormalise": True, "least_sum": 9.0},
    {"score": "sigmoid", "renormalise": True, "sum_eps": 0.5},
]


@pytest.mark.parametrize("given", ROUTERS)
@pytest.mark.parametrize(("rows", "width", "experts"), [(1, 50, 8), (7, 32, 64)])
def test_routers(
    kernels: Kernels, given: dict[str, Any], rows: int, width: int, experts: int
) -> None:
    routes(kernels, given, rows, width, experts)


def routes(
    kernels: Kernels, given: dict[str, Any], rows: int, width: int, experts: int
) -> None:
    """Compare the choice of experts and their weights."""
    x = random(1, rows, width, dtype=WIDE, seed=1)
    weight = random(experts, width, dtype=WIDE, seed=2) / math.sqrt(width)
    options: dict[str, Any] = {"top_k": 3, **given}
    for name, seed in (("bias", 3), ("correction", 4)):
        if options.pop(name, False):
            options[name] = random(experts, dtype=WIDE, seed=seed) / 4
    words = {
        "score": SCORES.index,
        "after": SCORES.index,
        "group_score": ("top2", "max").index,
        "ineligible": ("never", "zero").index,
    }
    usual = {"after": -1, "groups": 1, "top_groups": 1, "sum_eps": 1e-20, "scale": 1}
    said = usual | {
        name: pointer(value)
        if isinstance(value, torch.Tensor)
        else words.get(name, lambda same: same)(value)
        for name, value in options.items()
    }
    chosen, weights = (torch.full((1, rows, 3), torch.nan) for _ in range(2))
    kernels.call("router", [chosen, weights, x], weight, experts, Router(**said))
    experts_, shares = ops.moe_router(x, weight, **options)
    order, order_ = (one.argsort(-1) for one in (chosen, experts_))
    assert torch.equal(chosen.gather(-1, order).long(), experts_.gather(-1, order_))
    near(weights.gather(-1, order), shares.gather(-1, order_), WIDE)


EXPERTS: list[dict[str, Any]] = [
    {"fn": "silu"},
    {"fn": "gelu", "biases": True},
    {"fn": "silu", "alpha": 1.7, "limit": 0.4, "biases": True},
    {"fn": "silu", "limit": 0.3},
    {"fn": "silu", "weigh": "input"},
    {"fn": "relu2", "gated": False},
]


@pytest.mark.parametrize("given", EXPERTS)
@pytest.mark.parametrize(
    ("rows", "width", "inner", "count"),
    [(1, 32, 48, 8), (3, 64, 40, 4), (40, 48, 56, 5)],
)
def test_experts(
    kernels: Kernels,
    given: dict[str, Any],
    rows: int,
    width: int,
    inner: int,
    count: int,
) -> None:
    mixes(kernels, given, rows, width, inner, count)


def mixes(
    kernels: Kernels,
    given: dict[str, Any],
    rows: int,
    width: int,
    inner: int,
    count: int,
) -> None:
    """Compare what experts of the tokens make."""
    dtype, options = kernels.dtype, dict(given)
    high = inner * (1 + options.get("gated", True))
    high += -high % 16
    inner = high // (1 + options.get("gated", True))
    gate_up = random(count, high, width, dtype=dtype, seed=5) / math.sqrt(width)
    down = random(count, width, inner, dtype=dtype, seed=6) / math.sqrt(inner)
    biases = {}
    if options.pop("biases", False):
        biases["gate_up_bias"] = random(count, high, dtype=dtype, seed=7)
        biases["down_bias"] = random(count, width, dtype=dtype, seed=8)
    x = random(2, rows, width, dtype=dtype, seed=9)
    generator = torch.Generator().manual_seed(rows)
    chosen = torch.rand(2, rows, count, generator=generator).topk(2).indices
    weights = random(2, rows, 2, dtype=WIDE, seed=10).abs()
    said = {name: pointer(one) for name, one in biases.items()} | {
        "fn": FUNCTIONS.index(options["fn"]),
        "alpha": options.get("alpha", 0),
        "limit": options.get("limit", 0),
        "weigh": 0 if "weigh" in options else -1,
        "gated": options.get("gated", True),
    }
    y = torch.full((2, rows, width), torch.nan)
    packed = [kernels.weight(one, "stack") for one in (gate_up, down)]
    assert torch.equal(packed[0].unpacked(), gate_up)
    values = [y, x.float(), chosen.float(), weights]
    more = packed[0].blocks, high, packed[1].blocks, count, inner, Experts(**said)
    kernels.call("experts", values, *more)
    exact = {name: one.double() for name, one in biases.items()}
    given_ = chosen, weights.double(), gate_up.double(), down.double()
    expected = ops.moe_experts(x.double(), *given_, **exact, **options)
    near(y, expected, dtype)


LATENTS: list[dict[str, Any]] = [{}, {"window": 6}, {"sinks": True}, {"bias": True}]


@pytest.mark.parametrize(("past", "tokens", "start"), [*PADDED, (40, 6, [0, 4])])
@pytest.mark.parametrize("given", LATENTS)
@pytest.mark.parametrize(("heads", "rank", "turned"), [(4, 32, 8), (2, 70, 2)])
def test_latents(
    kernels: Kernels,
    past: int,
    tokens: int,
    start: list[int] | None,
    given: dict[str, Any],
    heads: int,
    rank: int,
    turned: int,
) -> None:
    attends(kernels, past, tokens, start, given, heads, rank, turned)


def attends(
    kernels: Kernels,
    past: int,
    tokens: int,
    start: list[int] | None,
    given: dict[str, Any],
    heads: int,
    rank: int,
    turned: int,
) -> None:
    """Compare attention over latents, write and all."""
    dtype, options = kernels.dtype, dict(given)
    nope, made, width = 10, 14, rank + turned
    slots = random(2, past + tokens + 3, width, dtype=dtype, seed=34)
    latent = random(2, tokens, rank, dtype=dtype, seed=35)
    shared = random(2, tokens, 1, turned, dtype=dtype, seed=36)
    q = random(2, tokens, heads, nope + turned, dtype=dtype, seed=37)
    rows = heads * (nope + made)
    kv_b = random(rows, rank, dtype=dtype, seed=38) / math.sqrt(rank)
    first_ = began(start)
    if options.pop("sinks", False):
        options["sinks"] = random(heads, dtype=dtype, seed=39)
    if options.pop("bias", False):
        options["bias"] = random(rows, dtype=dtype, seed=40)
    known = {"past": past, "capacity": slots.shape[1], "start": pointer(first_)}
    kernels.call("latent_write", [latent.float(), shared.float()], slots, **known)
    written = torch.cat((latent, shared[:, :, 0]), -1)
    assert torch.equal(slots[:, past : past + tokens], written)
    said = {n: pointer(o) if n != "window" else o for n, o in options.items()}
    more = slots, width, kv_b, rows, rank, LatentAttention(scale=0.3, **said)
    y = torch.full((2, tokens, heads * made), torch.nan)
    kernels.call("latent_attention", [y, q.float()], *more, **known)
    state = row_state(slots.double(), past, first_)
    state.slots = state.rows
    exact = {n: o.double() if n != "window" else o for n, o in options.items()}
    expected = ops.latent_attention(
        q.double(), state, kv_b.double(), scale=0.3, **exact
    )
    real = torch.ones(2, tokens, dtype=torch.bool)
    if first_ is not None:
        real = torch.arange(past, past + tokens) >= first_[:, None]
    near(y[real], expected[real], dtype)
    assert not y.isnan().any()


MISTAKES: list[tuple[Mistake, Any]] = [
    (
        ("router.h", "logits[i] += with.bias[i]", "logits[i] -= with.bias[i]"),
        lambda k: routes(k, ROUTERS[1], 7, 32, 64),
    ),
    (
        ("router.h", "numbers[i] > numbers[best]", "numbers[i] < numbers[best]"),
        lambda k: routes(k, ROUTERS[0], 7, 32, 64),
    ),
    (
        ("router.h", "with.group_score == top2 ? 2 : 1", "1"),
        lambda k: routes(k, ROUTERS[3], 7, 32, 64),
    ),
    (
        ("experts.h", "begins_[i + 1] += begins_[i]", "begins_[i + 1] += i"),
        lambda k: mixes(k, EXPERTS[0], 3, 64, 40, 4),
    ),
    (
        ("experts.h", "(up + 1.0f)", "up"),
        lambda k: mixes(k, EXPERTS[2], 3, 64, 40, 4),
    ),
    (
        ("latent.h", "int64_t(head) * own + nope", "int64_t(head) * own"),
        lambda k: attends(k, 5, 1, None, {}, 4, 32, 8),
    ),
    (
        (
            "attention.h",
            "int64_t(key) * kv_.value_stride",
            "int64_t(key) * kv_.value_width",
        ),
        lambda k: attends(k, 5, 9, None, {}, 4, 32, 8),
    ),
]


@pytest.mark.parametrize(("mistake", "check"), first(2, MISTAKES))
def test_a_mistake_is_seen(mistake: Mistake, check: Any) -> None:
    right, wrong = (compiled(levels()[0], WIDE, one) for one in (None, mistake))
    check(right)
    with pytest.raises(AssertionError):
        check(wrong)
