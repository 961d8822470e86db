"""ChatGLM's generations: told apart by the facts, or by the user."""

from __future__ import annotations

from typing import Any

import pytest

from glmc.ir import model as m
from support.configs import CHATGLM, LLAMA
from support.loading import Load, Refusal

ANONYMOUS = CHATGLM | {"_name_or_path": "out/checkpoint-9", "transformers_version": "4"}


@pytest.mark.parametrize(
    ("more", "variant", "theta", "factor"),
    [
        ({}, "chatglm2", 1e4, None),
        ({"rope_ratio": 8}, "chatglm2", 1e4, 8),
        ({"_name_or_path": "THUDM/chatglm3-6b"}, "chatglm3", 1e4, None),
        (
            {"_name_or_path": "THUDM/chatglm3-6b-32k", "rope_ratio": 50},
            "chatglm3",
            5e5,
            0,
        ),
        ({"_name_or_path": "x", "rope_ratio": 8}, "chatglm2", 1e4, 8),
        (
            {"_name_or_path": "x", "transformers_version": "4.30.2", "rope_ratio": 50},
            "chatglm3",
            5e5,
            None,
        ),
        ({"transformers_version": "4.30.2", "rope_ratio": 8}, "chatglm2", 1e4, 8),
        ({"rotary_percent": 0.5, "interleaved_qkv": False}, "codegeex2", 1e4, None),
        ({"padded_vocab_size": 151552, "rope_ratio": 500}, "glm-4", 5e6, None),
    ],
)
def test_decided_by_the_config(
    load: Load, more: dict[str, Any], variant: str, theta: float, factor: float | None
) -> None:
    loaded = load(CHATGLM | more)
    rope = loaded.model.blocks[0].steps[0].op.rope
    assert loaded.variant == variant
    assert rope.theta == theta
    scaling = m.LinearScaling(factor=factor) if factor else None
    assert rope.scaling == scaling


def test_undecidable_is_refused_and_the_option_named(refusal: Refusal) -> None:
    message = refusal(ANONYMOUS | {"rope_ratio": 50})
    assert "--variant" in message
    assert "chatglm2: rope_ratio divides the positions" in message
    assert "chatglm3: rope_ratio multiplies the base" in message


def test_without_a_ratio_there_is_nothing_to_decide(load: Load) -> None:
    assert load(ANONYMOUS).variant == "chatglm2"
    assert load(ANONYMOUS | {"rope_ratio": 1}).variant == "chatglm2"


def test_the_user_decides(load: Load) -> None:
    ratio = ANONYMOUS | {"rope_ratio": 50}
    two, three = (
        load(ratio, variant=name).model.blocks[0].steps[0].op.rope
        for name in ("chatglm2", "chatglm3")
    )
    assert (two.theta, two.scaling) == (1e4, m.LinearScaling(factor=50))
    assert (three.theta, three.scaling) == (5e5, None)


def test_unknown_variants(refusal: Refusal) -> None:
    assert "has the variants codegeex2" in refusal(CHATGLM, variant="chatglm9")
    assert "has no variants" in refusal(LLAMA, variant="chatglm2")
