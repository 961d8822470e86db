"""Tokenizer files and chat templates that were mutated: an answer, or one error."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from glmc.backends.runtime.tokenizer import Tokenizer, load_tokenizer
from glmc.backends.runtime.tokenizer.files import TokenizerError
from glmc.backends.runtime.tokenizer.jinja import render
from glmc.ir.errors import TokenizerUnusableError
from support.attacks import HOSTILE
from support.chat_templates import TEMPLATES
from support.fuzzing import Target, faults, mutate_json, mutate_text
from support.vocabularies import (
    ice_model,
    sentencepiece_model,
    tiktoken_file,
    tokenizer_json,
    write,
)

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or not hasattr(os, "fork"),
    reason="limits of a child process, as Linux has them",
)

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "a <|user|> 你好 50%"},
    {"role": "assistant", "content": "<think>b</think>c", "tool_calls": [{"a": [1]}]},
    {"role": "tool", "content": "{}"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
TEMPLATE_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render_template(text: str, folder: Path) -> None:
    variables = {"messages": CHAT, "tools": TOOLS, "documents": None}
    spans: list[tuple[int, int]] = []
    try:
        found = render(text, {**TEMPLATE_TOKENS, **variables}, "mine", spans)
    except TokenizerError as error:
        raise TokenizerUnusableError(str(error)) from error
    assert all(0 <= first <= end <= len(found) for first, end in spans)


def use(tokenizer: Tokenizer) -> None:
    """Use a tokenizer in the ways that models do."""
    for text in ("the weather", "a <|user|> 你好 🌍"):
        ids = tokenizer.encode(text, encode_special_tokens=True)
        assert all(type(number) is int and number >= 0 for number in ids)
        assert isinstance(tokenizer.decode(ids, skip_special_tokens=True), str)
        assert isinstance("".join(tokenizer.stream()(ids)), str)
    tokenizer(["a", "the weather"], return_tensors="pt", truncation=True, max_length=9)
    tokenizer.apply_chat_template(CHAT[1:2], add_generation_prompt=True)


def load_folder(text: str, folder: Path) -> None:
    """A folder written as one JSON object: file names to what is in them."""
    try:
        files = json.loads(text)
        files = {Path(n).name[:200]: f for n, f in files.items() if n and "\0" not in n}
    except (ValueError, AttributeError, RecursionError):
        return
    for file in folder.iterdir():
        file.unlink()
    for name, content in files.items():
        if name not in (".", ".."):
            data = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(data, "utf-8", errors="surrogatepass")
    _load(folder)


def load_vocabulary(text: str, folder: Path) -> None:
    """A vocabulary's bytes, each a character, behind the name of its file."""
    name, _, content = text.partition("\n")
    for file in folder.iterdir():
        file.unlink()
    known = name if name in ("ice_text.model", "tokenizer.model") else "tokenizer.json"
    write(folder, {known: content.encode("utf-8", "surrogatepass")})
    if content.isascii() or max(content) < "\u0100":
        write(folder, {known: content.encode("latin-1")})
    _load(folder, "chatglm3" if known == "tokenizer.model" else None)


def _load(folder: Path, variant: str | None = None) -> None:
    try:
        use(load_tokenizer(folder, variant=variant))
    except TokenizerError as error:
        raise TokenizerUnusableError(str(error)) from error


def mutate_template(rnd: random.Random, text: str) -> str:
    """A change to a template: of its text, or a piece of an attack or of another."""
    if rnd.random() < 0.7:
        return mutate_text(rnd, text)
    pieces = [*TEMPLATES.values(), *(t for t, _ in HOSTILE.values() if len(t) < 2000)]
    other = rnd.choice(pieces)
    begin = rnd.randrange(len(other))
    at = rnd.randrange(len(text) + 1)
    return text[:at] + other[begin : begin + rnd.randrange(1, 200)] + text[at:]


FOLDER = {
    "tokenizer_config.json": {
        "bos_token": "<sop>",
        "eos_token": {"content": "<|endoftext|>", "lstrip": False},
        "pad_token": "<|endoftext|>",
        "model_max_length": 100,
        "truncation_side": "left",
        "clean_up_tokenization_spaces": True,
        "additional_special_tokens": ["<a>", "<b>"],
        "chat_template": [{"name": "default", "template": TEMPLATES["glm4"]}],
    },
    "special_tokens_map.json": {"unk_token": "<c>", "image_token": "<d>"},
    "added_tokens.json": {"<x>": 335, "<y>": 336},
    "generation_config.json": {"eos_token_id": [7, 9]},
    "config.json": {"model_type": "llama", "vocab_size": 400, "pad_token_id": 0},
}
FOLDERS = (
    json.dumps({**FOLDER, "tokenizer.json": json.loads(tokenizer_json())}),
    json.dumps(
        {
            "tokenizer.json": {**json.loads(tokenizer_json()), "added_tokens": []},
            "tokenizer_config.json": {
                "added_tokens_decoder": {
                    "320": {"content": "<|endoftext|>", "special": True},
                    "321": {"content": "<think>", "special": False, "rstrip": True},
                },
                "chat_template": TEMPLATES["qwen"],
            },
        }
    ),
)
VOCABULARIES = (
    "tokenizer.model\n" + sentencepiece_model().decode("latin-1"),
    "tokenizer.model\n" + tiktoken_file().decode("latin-1"),
    "ice_text.model\n" + ice_model().decode("latin-1"),
    "tokenizer.json\n" + tokenizer_json(),
)
TARGETS = (
    Target("template", tuple(TEMPLATES.values()), mutate_template, render_template),
    Target("tokenizer", FOLDERS, mutate_json, load_folder),
    Target("vocabulary", VOCABULARIES, mutate_text, load_vocabulary),
)


def none_fails(target: Target, count: int, folder: Path) -> None:
    found, answers = faults(target, count, folder)
    assert not found, "\n\n".join(map(str, found[:5]))
    assert answers > count // 20, "next to nothing was understood"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_inputs_end_in_an_answer_or_an_error(target: Target, tmp_path: Path) -> None:
    none_fails(target, 200, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_ten_times_as_many(target: Target, tmp_path: Path) -> None:
    none_fails(target, 2000, tmp_path)
