"""auto_map in both its forms, read and never imported."""

from __future__ import annotations

import pytest

from glmc.frontends.read.auto_map import AutoClass, read_auto_map
from glmc.ir.errors import GlmcError


def test_both_forms() -> None:
    found = read_auto_map(
        {
            "AutoModel": "THUDM/chatglm3-6b--modeling_chatglm.ChatGLMModel",
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None],
        },
        "config.json",
    )
    assert found == (
        AutoClass("AutoConfig", None, "configuration_chatglm", "ChatGLMConfig"),
        AutoClass("AutoModel", "THUDM/chatglm3-6b", "modeling_chatglm", "ChatGLMModel"),
        AutoClass("AutoTokenizer", None, "tokenization_chatglm", "ChatGLMTokenizer"),
    )
    assert read_auto_map(None, "config.json") == ()


@pytest.mark.parametrize(
    "reference",
    [
        "../evil.Model",
        "os.path.join",
        "Model",
        "a.b\nimport os",
        "x/y/z--a.B",
        "a-b.C",
        "a.1B",
        3,
        {"a": "b"},
        "",
    ],
)
def test_anything_else_is_refused(reference: object) -> None:
    with pytest.raises(GlmcError, match=r"config\.json: auto_map\.AutoModel") as error:
        read_auto_map({"AutoModel": reference}, "config.json")
    assert "\n" not in str(error.value)


def test_not_an_object() -> None:
    with pytest.raises(GlmcError, match="must be an object"):
        read_auto_map(["a.B"], "config.json")
