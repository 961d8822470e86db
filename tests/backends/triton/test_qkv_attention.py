"""The prologue (norm, rope, cache write) and its attention against the reference."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from support.kernels import examples, filled_cache, qkv_use, random
from support.ranges import first

Interpreted = Callable[..., ModuleType]

TOLERANCE = {torch.float32: 4e-6, torch.float16: 8e-3}
F32 = torch.float32
few = examples(30)


def arguments(
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    batch: int,
    tokens: int,
    rotary: int = 0,
    norm: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **attrs: Any,
) -> dict[str, Any]:
    """Random arguments of qkv_attention but for the cache."""
    width = (heads + 2 * kv_heads) * head_dim
    found = {
        "qkv": random(batch, tokens, width, dtype=dtype, seed=seed),
        **{"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim},
        **{"scale": head_dim**-0.5, "eps": 1e-6},
        **attrs,
    }
    if rotary:
        angles = random(batch, tokens, rotary // 2, dtype=torch.float32, seed=seed + 1)
        found |= {"cos": (3 * angles).cos(), "sin": (3 * angles).sin()}
    if norm:
        for n, name in enumerate(("q_norm", "k_norm")):
            found[name] = random(head_dim, dtype=dtype, seed=seed + 2 + n)
    return found


def compare(
    module: ModuleType,
    given: dict[str, Any],
    *,
    past: int = 0,
    start: list[int] | None = None,
) -> None:
    """The context of every real query, and what the cache holds afterwards."""
    batch, tokens, _ = given["qkv"].shape
    dtype, width = given["qkv"].dtype, given["head_dim"]
    ours, theirs = (
        filled_cache(
            (given["kv_heads"], width, width),
            batch=batch,
            past=past,
            tokens=tokens,
            dtype=dtype,
            start=start,
        )
        for _ in range(2)
    )
    # Fewer parts of the cache than on a GPU: each costs the interpreter time.
    with mock.patch.multiple(module, SPLITS=4, FAN=2):
        got = module.qkv_attention(kv=ours.own[0], **given)
    want = reference.qkv_attention(kv=theirs.own[0], **given)
    tolerance = TOLERANCE[dtype]
    same = {"atol": tolerance, "rtol": tolerance}
    for name in ("keys", "values"):
        left, right = getattr(ours.own[0], name), getattr(theirs.own[0], name)
        torch.testing.assert_close(left, right, equal_nan=True, **same)
    slots = torch.arange(past, past + tokens)
    real = slots >= torch.tensor(start or [0] * batch)[:, None]
    assert not got.isnan().any()
    torch.testing.assert_close(got[real], want[real], **same)


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """One kind of layer: sizes, and which parts it has."""
    kv_heads = draw(st.integers(1, 3))
    head_dim = draw(st.sampled_from([2, 6, 16, 64, 80, 96, 128, 256]))
    rotary = draw(st.sampled_from([0, 2, head_dim // 4 * 2 or 2, head_dim]))
    return {
        "heads": kv_heads * draw(st.integers(1, 3)),
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "rotary": rotary,
        "norm": draw(st.booleans()),
        "style": draw(st.sampled_from(["half", "interleaved"])),
        "weight_in": draw(st.sampled_from(["input", "f32"])),
        **draw(st.just({}) | st.fixed_dictionaries({"window": st.integers(1, 9)})),
    }


SECTIONED: list[dict[str, Any]] = [
    {"rotary": 64, "sections": 2},
    {"rotary": 48, "sections": 3, "norm": True},
    {"rotary": 64, "sections": 2, "style": "interleaved"},
]


@pytest.mark.parametrize("layer", SECTIONED)
@pytest.mark.parametrize("tokens", [1, 6])
def test_sections(interpreted: Interpreted, layer: dict[str, Any], tokens: int) -> None:
    given = arguments(4, 2, 64, batch=2, tokens=tokens, **layer)
    compare(interpreted(qkv_use(**layer)), given, past=4)
    both = interpreted(*(qkv_use(**each) for each in (*SECTIONED, {"rotary": 64})))
    compare(both, given, past=4)


def test_a_mistake_in_the_sections_is_caught(interpreted: Interpreted) -> None:
    given = arguments(4, 2, 64, batch=2, tokens=3, **SECTIONED[0])

    def edit(text: str) -> str:
        assert "section * SECTION +" in text
        return text.replace("section * SECTION +", "")

    with pytest.raises(AssertionError):
        compare(interpreted(qkv_use(**SECTIONED[0]), edit=edit), given)


@few
@given(
    layer=layers(),
    batch=st.integers(1, 2),
    tokens=st.sampled_from([1, 1, 2, 5, 9]),
    past=st.integers(0, 20),
    starts=st.none() | st.tuples(st.integers(0, 5), st.integers(0, 5)),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 99),
)
def test_values(
    interpreted: Interpreted,
    layer: dict[str, Any],
    batch: int,
    tokens: int,
    past: int,
    starts: tuple[int, int] | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    module = interpreted(qkv_use(**layer))
    given = arguments(**layer, batch=batch, tokens=tokens, dtype=dtype, seed=seed)
    start = None if starts is None else list(starts[:batch])
    compare(module, given, past=past, start=start)


MIXED = [
    {"rotary": 64},
    {"rotary": 32, "style": "interleaved"},
    {"style": "interleaved", "norm": True, "weight_in": "f32"},
    {"rotary": 64, "norm": True, "window": 3},
]


@pytest.mark.parametrize("layer", MIXED)
@pytest.mark.parametrize("tokens", [1, 6])
def test_layers_that_differ(
    interpreted: Interpreted, layer: dict[str, Any], tokens: int
) -> None:
    module = interpreted(*(qkv_use(**each) for each in MIXED))
    compare(module, arguments(4, 2, 64, batch=2, tokens=tokens, **layer), past=4)


def test_strides(interpreted: Interpreted) -> None:
    module = interpreted(qkv_use(rotary=64))
    given = arguments(4, 2, 64, batch=2, tokens=12, rotary=64)
    for name in ("qkv", "cos", "sin"):
        given[name] = given[name][:, 1::3]
    compare(module, given)


@pytest.mark.parametrize(
    ("tokens", "right", "wrong"),
    first(
        1,
        [
            (
                3,
                "tl.where(first, -partner, partner)",
                "tl.where(first, partner, -partner)",
            ),
            (3, "channel < ROTARY // 2", "channel <= ROTARY // 2"),
            (3, "weight + other", "weight + channel"),
            (3, "source, True, cos, sin, k_norm", "source, True, cos, sin, q_norm"),
            (3, "slot = tl.load(position) + token", "slot = token"),
            (3, "qkv_token + head * D", "qkv_token + (HEADS - head) * D"),
            (1, "row, True, cos, sin, k_norm", "row, True, cos, sin, q_norm"),
            (1, "place = group * capacity + past", "place = group * capacity"),
            (1, "cos += batch * (ROTARY // 2)", "cos += 0"),
            (1, "if split == 0:", "if split < 2:"),
            (1, "_scores(products[:, None], SCALE)", "products[:, None]"),
            (1, "first = split // (step * FAN) * (step * FAN)", "first = 0"),
            (1, "own = split // step * step", "own = split"),
            (1, "before == count - 1", "before == 0"),
            (1, "power[:, None] * part", "part"),
            (1, "tl.cdiv(used - first, step)", "1"),
            (1, "tl.where(step == 1, 1 + split // FAN, 0)", "1 + split // FAN"),
        ],
    ),
)
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, tokens: int, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    layer = {"rotary": 64, "norm": True}
    given = arguments(4, 2, 64, batch=2, tokens=tokens, **layer)
    module = interpreted(qkv_use(**layer), edit=edit)
    with pytest.raises(AssertionError):
        compare(module, given, past=50)


def test_control_without_a_mistake(interpreted: Interpreted) -> None:
    layer = {"rotary": 64, "norm": True}
    for tokens in (1, 3):
        given = arguments(4, 2, 64, batch=2, tokens=tokens, **layer)
        compare(interpreted(qkv_use(**layer)), given, past=50)


def test_whoever_comes_last_gives_the_same_bits(interpreted: Interpreted) -> None:
    def backwards(text: str) -> str:
        right = "split = tl.program_id(0)"
        assert right in text
        return text.replace(right, "split = SPLITS - 1 - tl.program_id(0)")

    given = arguments(4, 1, 32, batch=2, tokens=1, rotary=32)
    answers = []
    for edit in (str, backwards):
        module = interpreted(qkv_use(4, 1, 32, rotary=32), edit=edit)
        cache = filled_cache((1, 32, 32), batch=2, past=90, tokens=1, dtype=F32)
        with mock.patch.multiple(module, SPLITS=8, FAN=4):
            answers.append(module.qkv_attention(kv=cache.own[0], **given))
    assert torch.equal(*answers)


def check_steps(module: ModuleType) -> None:
    """Each launch begins with the cache that the last one left."""
    ours, theirs = (
        filled_cache((2, 32, 32), batch=2, past=60, tokens=4, dtype=F32)
        for _ in range(2)
    )
    with mock.patch.multiple(module, SPLITS=4, FAN=2):
        for step in range(3):
            given = arguments(4, 2, 32, batch=2, tokens=1, rotary=32, seed=step)
            got = module.qkv_attention(kv=ours.own[0], **given)
            want = reference.qkv_attention(kv=theirs.own[0], **given)
            torch.testing.assert_close(got, want, atol=4e-6, rtol=4e-6)
            for cache in (ours, theirs):
                cache.advance(1)
    (count,) = ours._counters
    assert count == 2 * 2 * 3
    assert not ours.counters(count).any()


def test_programs_count_themselves_down_to_zero(interpreted: Interpreted) -> None:
    def forget(text: str) -> str:
        right = "tl.store(arrived, 0, mask=last)"
        assert right in text
        return text.replace(right, "pass")

    use = qkv_use(4, 2, 32, rotary=32)
    check_steps(interpreted(use))
    with pytest.raises(AssertionError):
        check_steps(interpreted(use, edit=forget))


def test_one_launch_a_token(
    interpreted: Interpreted, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = interpreted(qkv_use(rotary=64, norm=True))
    launched = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: Any) -> Any:
            launched.append(grid)
            return self.kernel[grid]

    for name, value in vars(module).copy().items():
        if name.endswith("_kernel"):
            monkeypatch.setattr(module, name, Recorder(value))
    compare(
        module, arguments(4, 2, 64, batch=2, tokens=1, rotary=64, norm=True), past=3
    )
    assert len(launched) == 1
    compare(module, arguments(4, 2, 64, batch=2, tokens=2, rotary=64, norm=True))
    assert len(launched) == 3
