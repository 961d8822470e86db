"""Stop strings that a tokenizer can say, and those that it never says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from glmc.backends.runtime.endings import Endings
from glmc.backends.runtime.tokenizer import load_tokenizer
from support.vocabularies import sentencepiece_model, tokenizer_json, write

#: A vocabulary of five characters.
LETTERS = {
    "config.json": {"model_type": "llama"},
    "tokenizer.json": {
        "model": {
            "type": "BPE",
            "vocab": {"<unk>": 0, "h": 1, "e": 2, "t": 3, " ": 4, "a": 5},
            "merges": [],
            "unk_token": "<unk>",
        },
        "added_tokens": [],
        "decoder": {"type": "Fuse"},
    },
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    },
}
BYTES = LETTERS | {"tokenizer.json": tokenizer_json("$A")}
PROMPT = torch.zeros(1, 3, dtype=torch.int64)
Load = Callable[[Path], Any]


@pytest.fixture(params=["own", "transformers"])
def load(request: pytest.FixtureRequest) -> Load:
    theirs: Load = transformers.AutoTokenizer.from_pretrained
    return load_tokenizer if request.param == "own" else theirs


@pytest.mark.parametrize(
    ("stop", "character"), [("the λ.", "λ"), ("\n", r"\\n"), ("The", "T")]
)
def test_a_stop_string_that_is_never_said(
    load: Load, stop: str, character: str, tmp_path: Path
) -> None:
    letters = load(write(tmp_path / "letters", LETTERS))
    with pytest.raises(ValueError, match=f"never said: it holds '{character}', which"):
        Endings(PROMPT, (), ["he", stop], letters)
    Endings(PROMPT, (), ["he th", " the ", "h", "t h"], letters)


def test_whatever_has_bytes_says_everything(load: Load, tmp_path: Path) -> None:
    whole = ["the λ.", "\n", "The", "\U0001f600", " \n ", "<|user|>", "e\u0301", "  "]
    Endings(PROMPT, (), whole, load(write(tmp_path / "bytes", BYTES)))


def test_sentencepiece_says_what_begins_with_a_blank(tmp_path: Path) -> None:
    files = {
        "config.json": {"model_type": "chatglm", "architectures": ["ChatGLMModel"]}
    }
    files |= {"tokenizer_config.json": {"name_or_path": "THUDM/chatglm3-6b"}}
    folder = write(tmp_path, files | {"tokenizer.model": sentencepiece_model()})
    tokenizer = load_tokenizer(folder)
    Endings(PROMPT, (), [" the", "\n", "你好", "<|user|>", "\U0001f600"], tokenizer)


def test_what_is_no_function_is_not_asked() -> None:
    class Decoder:
        def decode(self, ids: list[int]) -> str:
            return "ab"[len(ids) % 2]

    ends = Endings(PROMPT, (), ["λ", "b"], Decoder())
    assert ends(torch.tensor([7])).tolist() == [True]
