"""Caps, slopes and sinks of attention's scores in the kernels, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from support.attention import EXTRAS, check_extra, use_of
from support.kernels import attention_use, qkv_use, render
from support.ranges import first

Interpreted = Callable[..., ModuleType]


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


@pytest.mark.parametrize("past", first(1, [17, 2, 16, 18, 33, 34, 35]))
def test_chunks_begin_at_the_first_real_slot(
    interpreted: Interpreted, past: int
) -> None:
    extra: dict[str, object] = {"chunk": 17}
    module = interpreted(use_of(extra))
    check_extra(module, extra, tokens=1, past=past)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    first(
        1,
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
    ),
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
    """A use without a kernel runs as the reference, and is named as such."""
    text = render(qkv_use(chunk=8, prefix=True))
    assert "from .reference import qkv_attention" in text
    assert "_kernel" not in text
