"""The spec that a config finds, where a name alone does not say it."""

from __future__ import annotations

import pytest

from glmc.frontends.spec.beyond import BEYOND_ATTENTION
from glmc.frontends.spec.library import identify, known_names
from glmc.ir.errors import GlmcError


def test_gpt_sw3_is_a_gpt2() -> None:
    assert identify({"model_type": "gpt-sw3"}, "config.json").name == "gpt2"


@pytest.mark.parametrize(
    ("text", "spec"), [("phi3", "internvl_chat_phi3"), ("internlm2", "internvl_chat")]
)
def test_composites_are_told_apart_by_their_text_part(text: str, spec: str) -> None:
    config = {"model_type": "internvl_chat", "llm_config": {"model_type": text}}
    assert identify(config, "config.json").name == spec


@pytest.mark.parametrize("name", ["hrm_text", "qwen4_exp", "zaya"])
def test_types_beyond_attention_are_refused_by_what_they_have(name: str) -> None:
    with pytest.raises(GlmcError, match=name) as caught:
        identify({"model_type": name}, "config.json")
    assert BEYOND_ATTENTION[name] in str(caught.value)


def test_no_spec_is_for_a_type_that_is_refused() -> None:
    assert not BEYOND_ATTENTION.keys() & set(known_names())
