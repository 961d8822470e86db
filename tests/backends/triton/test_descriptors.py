"""Prefill where tiles of the cache are copied by descriptors, interpreted.

What lies beyond the filled slots is NaN: a descriptor that knew of it would let it in.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import KeysValues
from glmc.backends.torch import ops as reference
from glmc.backends.triton import tiles
from glmc.backends.triton.targets import LIMITS
from support.attention import EXTRAS, TOLERANCE, check_extra, compare, use_of
from support.kernels import attention_use, examples, filled_cache, random
from support.ranges import first

Interpreted = Callable[..., ModuleType]
Made = list[dict[str, Any]]
On = Callable[..., Made]

# Heads of two: key heads, query heads, channels, some with rows of odd 16 bytes.
GROUPS = st.sampled_from([(1, 1), (4, 2), (6, 2), (5, 1)])
DIMS = st.sampled_from([8, 16, 24, 64, 80, 128])
STARTS = st.none() | st.tuples(st.integers(0, 12), st.integers(0, 12))


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> On:
    """Let a module believe in a GPU; gives the descriptors that it makes.

    In float32 too, where differences are small; a GPU's registers are no matter here.
    """

    def believe(module: ModuleType, target: str = "cuda:90") -> Made:
        everywhere = dict.fromkeys(module.DESCRIBED, tiles.DESCRIBED[2])
        monkeypatch.setattr(module, "DESCRIBED", everywhere)
        made: Made = []
        real = module.TensorDescriptor

        def descriptor(base: Any, shape: Any, strides: Any, block: Any) -> Any:
            made.append({"shape": shape, "strides": strides, "block": block})
            return real(base, shape, strides, block)

        monkeypatch.setattr(module, "present_target", lambda device: target)
        monkeypatch.setattr(module, "TensorDescriptor", descriptor)
        return made

    return believe


@examples(8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.integers(2, 50),
    past=st.integers(0, 40),
    heads=GROUPS,
    dims=st.tuples(DIMS, DIMS),
    window=st.none() | st.integers(1, 40),
    starts=STARTS,
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 99),
)
def test_prefill(
    interpreted: Interpreted,
    on: On,
    tokens: int,
    past: int,
    heads: tuple[int, int],
    dims: tuple[int, int],
    window: int | None,
    starts: tuple[int, int] | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    module = interpreted(attention_use(*heads, *dims, window=window))
    made = on(module)
    compare(
        module,
        tokens=tokens,
        past=past,
        heads=heads,
        dims=dims,
        start=None if starts is None else list(starts),
        window=window,
        dtype=dtype,
        seed=seed,
    )
    capacity, slots = past + tokens + 3, module.PREFILL[dtype.itemsize]["SLOTS"]
    assert made == [
        {
            "shape": [2 * heads[1], past + tokens, width],
            "strides": [capacity * width, width, 1],
            "block": [1, slots, tiles.dot_block(width)],
        }
        for width in dims
    ]


@pytest.mark.parametrize("name", EXTRAS)
def test_changed_scores(interpreted: Interpreted, on: On, name: str) -> None:
    module = interpreted(use_of(EXTRAS[name]))
    made = on(module)
    check_extra(module, EXTRAS[name], tokens=20, past=33)
    assert len(made) == 2


def test_values_that_are_no_whole_16_bytes_come_by_pointers(
    interpreted: Interpreted, on: On
) -> None:
    module = interpreted(attention_use(4, 2, 16, 20))
    made = on(module)
    sizes: dict[str, Any] = {"heads": (4, 2), "dims": (16, 20)}
    compare(module, tokens=20, past=9, dtype=torch.float16, **sizes)
    assert [each["shape"] for each in made] == [[4, 29, 16]]


@pytest.mark.parametrize("size", tiles.ELEMENT_SIZES)
@pytest.mark.parametrize("target", [*LIMITS, "cuda:91", "cpu"])
def test_the_target_decides(
    interpreted: Interpreted, monkeypatch: pytest.MonkeyPatch, target: str, size: int
) -> None:
    module = interpreted(attention_use(4, 2, 16))
    monkeypatch.setattr(module, "present_target", lambda device: target)
    dtype = {2: torch.float16, 4: torch.float32}[size]
    slots = module._slots(torch.zeros(1, 2, 8, 16, dtype=dtype), 4, dtype, 16, 16)
    described = isinstance(slots, module.TensorDescriptor)
    modern = ("cuda:90", "cuda:100", "cuda:120")
    assert described == (size == 2 and target in modern)


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
def test_codes_come_by_pointers(
    interpreted: Interpreted, on: On, kind: torch.dtype
) -> None:
    module = interpreted(attention_use(4, 2, 16))
    made = on(module)
    cache = Cache([{"kv": KeysValues(2, 16, 16)}], 1, 12, kind, "cpu")
    layer = cache.own[0]
    parts = (random(1, 2, 9, 16, dtype=torch.float32, seed=n) for n in (1, 2))
    layer.write(0, *parts)
    q = random(1, 9, 4, 16, dtype=torch.float32, seed=3)
    got = module.attention(q, layer, scale=0.25)
    want = reference.attention(q, layer, scale=0.25)
    torch.testing.assert_close(got, want, atol=3e-6, rtol=3e-6)
    assert not made


def test_bfloat16_has_descriptors(interpreted: Interpreted, on: On) -> None:
    """The interpreter gets bf16 wrong: only what is launched is looked at."""
    module = interpreted(attention_use(4, 2, 16))
    made = on(module)
    layer = filled_cache(
        (2, 16, 16), batch=1, past=0, tokens=5, dtype=torch.bfloat16
    ).own[0]
    q = random(1, 5, 4, 16, dtype=torch.bfloat16, seed=0)
    module.attention(q, layer, scale=0.25)
    assert len(made) == 2


@pytest.mark.parametrize(
    ("right", "wrong"),
    first(
        1,
        [
            # All of the cache: slots that hold nothing yet, and 0 · NaN is NaN.
            ("[B * K, filled, D]", "[B * K, capacity, D]"),
            ("[B * K, filled, D]", "[B * K, filled - 1, D]"),
            # The channels of a block: those of the next slot, which holds nothing.
            ("[B * K, filled, D]", "[B * K, filled, BLOCK]"),
            ("[capacity * D, D, 1]", "[filled * D, D, 1]"),
            ("head.to(tl.int32), base", "head.to(tl.int32) // 2, base"),
            ("head.to(tl.int32), base", "head.to(tl.int32), base - 1"),
            ("kv.past + T", "T"),
        ],
    ),
)
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, on: On, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    def check(module: ModuleType) -> None:
        made = on(module)
        sizes: dict[str, Any] = {"heads": (4, 2), "dims": (24, 24)}
        compare(module, tokens=20, past=13, start=[0, 3], **sizes)
        assert made

    use = attention_use(4, 2, 24)
    check(interpreted(use))
    with pytest.raises(AssertionError):
        check(interpreted(use, edit=edit))
