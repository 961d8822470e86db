"""Prefixes and learned slots in the kernels of attention, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from support.attention import compare
from support.kernels import attention_use
from support.ranges import first

Interpreted = Callable[..., ModuleType]


@pytest.mark.parametrize("learned", [0, 3])
@pytest.mark.parametrize("start", first(1, [[3, 11], None]))
@pytest.mark.parametrize(("tokens", "past"), [(40, 3), (5, 20), (1, 20)])
def test_prefix_and_learned_slots(
    interpreted: Interpreted,
    tokens: int,
    past: int,
    start: list[int] | None,
    learned: int,
) -> None:
    compare(
        interpreted(attention_use(prefix=True, learned=learned)),
        tokens=tokens,
        past=past,
        heads=(4, 2),
        dims=(64, 64),
        start=start,
        prefix=[min(13, past + tokens), min(37, past + tokens)],
        learned=learned,
    )


def test_learned_slots_without_a_prefix(interpreted: Interpreted) -> None:
    module = interpreted(attention_use(learned=4))
    for tokens in (1, 9):
        compare(
            module,
            tokens=tokens,
            past=12,
            heads=(4, 2),
            dims=(64, 64),
            start=[4, 9],
            learned=4,
        )


@pytest.mark.parametrize(
    ("right", "wrong"),
    first(
        1,
        [
            ("slot < bound", "slot <= bound"),
            ("tl.maximum(stop, bound)", "stop"),
            ("slot < LEARNED", "slot < LEARNED - 1"),
            ("slot >= first", "slot > first"),
            ("    real = first\n", "    real = 0\n"),
        ],
    ),
)
def test_a_mistake_in_the_prefix_is_caught(
    interpreted: Interpreted, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    def check(module: ModuleType) -> None:
        sizes: dict[str, Any] = {"heads": (4, 2), "dims": (64, 64), "learned": 3}
        for tokens, past, prefix in ((50, 3, [20, 53]), (1, 30, [9, 9])):
            compare(
                module, tokens=tokens, past=past, prefix=prefix, start=[3, 8], **sizes
            )

    check(interpreted(attention_use(prefix=True, learned=3)))
    with pytest.raises(AssertionError):
        check(interpreted(attention_use(prefix=True, learned=3), edit=edit))
