"""Text as it comes: the same in the end, and never half a character."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from glmc.backends.runtime.tokenizer import Tokenizer, load_tokenizer
from support.vocabularies import (
    ice_model,
    sentencepiece_model,
    tiktoken_file,
    tokenizer_json,
    write,
)

FILES: dict[str, dict[str, bytes | str]] = {
    "ice": {"ice_text.model": ice_model()},
    "early": {"ice_text.model": ice_model(early=True)},
    "sentencepiece": {"tokenizer.model": sentencepiece_model()},
    "tiktoken": {"tokenizer.model": tiktoken_file()},
    "json": {"tokenizer.json": tokenizer_json()},
}
TEXTS = [
    "Hello,  wörld 你好。世界 🌍🏽 \n\tx\n    y",
    " lead",
    "   three",
    "trail  ",
    "a <n b <| c <|blank d",
    "𝔘ﷺ\u200d\n\n",
]


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    variant = "chatglm3" if kind == "sentencepiece" else None
    with TemporaryDirectory() as folder:
        return load_tokenizer(write(Path(folder), FILES[kind]), variant=variant)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", FILES)
def test_parts_make_the_text(kind: str, text: str) -> None:
    found = tokenizer(kind)
    ids = found.encode(text, add_special_tokens=False)
    stream = found.stream()
    parts = [stream.put(i) for i in ids]
    whole = found.decode(ids, skip_special_tokens=True)
    assert "".join(parts) + stream.end() == whole
    assert not any("\ufffd" in part for part in parts)
    if kind not in ("ice", "early"):  # they put a blank before what they encode
        assert whole == text


@pytest.mark.parametrize("kind", FILES)
def test_any_ids(kind: str) -> None:
    """Broken characters and ids without a word included."""
    found = tokenizer(kind)
    source = random.Random(0)
    signs = found.encode("🌍你é ", add_special_tokens=False)
    for _ in range(200):
        ids = [
            source.choice(
                [source.choice(signs), source.randrange(found.vocab_size + 9)]
            )
            for _ in range(source.randrange(20))
        ]
        whole = found.decode(ids, skip_special_tokens=True)
        assert "".join(found.stream()(ids)) == whole


@pytest.mark.parametrize("kind", FILES)
def test_control_single_tokens_break_characters(kind: str) -> None:
    found = tokenizer(kind)
    ids = found.encode("🌍", add_special_tokens=False)
    assert "\ufffd" in "".join(found.decode([i]) for i in ids)


def test_text_comes_as_early_as_it_is_certain() -> None:
    found = tokenizer("tiktoken")
    stream = found.stream()
    assert [stream.put(b) for b in "a你b".encode()] == ["a", "", "", "你", "b"]
    assert stream.put("你".encode()[0]) == ""
    assert stream.end() == "\ufffd"
    assert stream.put(ord("c")) == "c"


def test_spelled_pieces_are_held_until_they_are_done() -> None:
    """ChatGLM-6B reads `<n>` as a newline even where three tokens spell it."""
    found = tokenizer("early")
    byte0 = found.vocab_size - 256
    ids = [byte0 + byte for byte in b"a<n>b<|tab|>c<|blank_3|>d<na"]
    assert found.decode(ids) == "a\nb\tc   d<na"
    assert "".join(found.stream()(ids)) == "a\nb\tc   d<na"


def test_specials_are_left_out_or_named() -> None:
    found = tokenizer("sentencepiece")
    ids = found.apply_chat_template(
        [{"role": "user", "content": "你好"}], add_generation_prompt=True
    )["input_ids"]
    assert "".join(found.stream()(ids)) == found.decode(ids, skip_special_tokens=True)
    assert "".join(found.stream(skip_special_tokens=False)(ids)) == found.decode(ids)


def test_tokens_as_a_model_streams_them() -> None:
    found = tokenizer("json")
    steps = [torch.tensor([i]) for i in found.encode("你好 the")]
    assert "".join(found.stream()(steps)) == "你好 the"
