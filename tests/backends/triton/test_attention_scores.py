"""What changes the scores of attention in the kernels, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from unittest import mock

import pytest
import torch

from glmc.backends.torch import ops as reference
from glmc.backends.triton import OpUse
from support.kernels import attention_use, filled_cache, qkv_use, random, render

Interpreted = Callable[..., ModuleType]

SLOPES = {"slopes": torch.tensor([0.5, 0.25, 0.125, 0.3])}
SINKS = {"sinks": torch.tensor([-1.0, 3.0, 0.0, 1.5])}
PREFIX = {"prefix": torch.tensor([9, 11], dtype=torch.int32)}
EXTRAS: dict[str, dict[str, object]] = {
    "capped": {"softcap": 2.0, "window": 30},
    "sloped": {**SLOPES, "window": 30},
    "sunk": {**SINKS, "window": 30},
    "chunked": {"chunk": 17},
    "sloped and sunk": {**SLOPES, **SINKS},
    "sloped, with a prefix": {**SLOPES, **PREFIX, "learned": 2},
    "sunk and capped, with a prefix": {**SINKS, **PREFIX, "softcap": 2.0},
    "all but a prefix": {**SLOPES, **SINKS, "chunk": 17, "window": 30, "softcap": 2.0},
}


def use_of(extra: dict[str, object]) -> OpUse:
    tensors = [name for name in ("slopes", "sinks") if name in extra]
    attrs = {
        name: value
        for name, value in extra.items()
        if not isinstance(value, torch.Tensor)
    }
    return attention_use(4, 2, 16, extras=tensors, prefix="prefix" in extra, **attrs)


def check_extra(
    module: ModuleType, extra: dict[str, object], *, tokens: int, past: int
) -> None:
    """A padded batch against the reference, over several parts of the cache."""
    layer = filled_cache(
        (2, 16, 16),
        batch=2,
        past=past,
        tokens=tokens,
        dtype=torch.float32,
        start=[0, 3],
    ).layers[0]
    keys, values = (
        random(2, tokens, 2, 16, dtype=torch.float32, seed=n) for n in (1, 2)
    )
    reference.kv_write(layer, keys, values)
    q = 3 * random(2, tokens, 4, 16, dtype=torch.float32, seed=3)
    attrs = {"scale": 0.25, **extra}
    with mock.patch.multiple(module, SPLITS=4, FAN=2):
        got = module.attention(q, layer, **attrs)
    want = reference.attention(q, layer, **attrs)
    real = torch.arange(past, past + tokens) >= torch.tensor([0, 3])[:, None]
    torch.testing.assert_close(got[real], want[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tokens", "past"), [(40, 0), (20, 33), (1, 64)])
@pytest.mark.parametrize("name", EXTRAS)
def test_changed_scores(
    interpreted: Interpreted, name: str, tokens: int, past: int
) -> None:
    module = interpreted(use_of(EXTRAS[name]))
    check_extra(module, EXTRAS[name], tokens=tokens, past=past)


@pytest.mark.parametrize(("tokens", "past"), [(20, 13), (1, 34)])
@pytest.mark.parametrize("name", ["capped", "sloped", "sunk", "chunked"])
def test_changed_scores_in_some_layers(
    interpreted: Interpreted, name: str, tokens: int, past: int
) -> None:
    module = interpreted(use_of(EXTRAS[name]), attention_use(4, 2, 16))
    check_extra(module, EXTRAS[name], tokens=tokens, past=past)
    check_extra(module, {}, tokens=tokens, past=past)


@pytest.mark.parametrize("past", [2, 16, 17, 18, 33, 34, 35])
def test_chunks_begin_at_the_first_real_slot(
    interpreted: Interpreted, past: int
) -> None:
    extra: dict[str, object] = {"chunk": 17}
    module = interpreted(use_of(extra))
    check_extra(module, extra, tokens=1, past=past)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("capped", "2.0 / CAP * scores", "1.0 / CAP * scores"),
        ("sloped", "(past - slot)[None, :]", "(stop - slot)[None, :]"),
        ("sloped", "scores -= slope * distance", "scores -= slope"),
        ("sunk", "there & (split == 0)", "there"),
        ("sunk", "tl.where(sunk, 1.0, total)", "total"),
        ("chunked", "slot[None, :] >= chunk[:, None]", "slot[None, :] >= 0"),
        ("chunked", "tl.maximum(past - first, 0) // CHUNK * CHUNK", "0"),
        ("chunked", "begin + (own - begin) // CHUNK", "own // CHUNK"),
    ],
)
def test_a_planted_mistake_in_changed_scores_is_caught(
    interpreted: Interpreted, name: str, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    module = interpreted(use_of(EXTRAS[name]), edit=edit)

    def check() -> None:
        for tokens, past in ((40, 0), (1, 64)):
            check_extra(module, EXTRAS[name], tokens=tokens, past=past)

    with pytest.raises(AssertionError):
        check()


def test_chunks_with_a_prefix_have_no_kernel() -> None:
    """What no kernel is made for is the reference's, and is named as such."""
    text = render(qkv_use(chunk=8, prefix=True))
    assert "from .reference import qkv_attention" in text
    assert "_kernel" not in text
