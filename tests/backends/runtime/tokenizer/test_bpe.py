"""The tiktoken-style file of GLM-4, and tokenizer.json, against their libraries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiktoken
import torch
from transformers import PreTrainedTokenizerFast

from glmc.backends.runtime.tokenizer import Tokenizer, load_tokenizer
from glmc.backends.runtime.tokenizer.files import TokenizerError
from glmc.backends.runtime.tokenizer.ranks import GLM4_PATTERN
from support.vocabularies import (
    GLM_SPECIALS,
    tiktoken_file,
    tiktoken_words,
    tokenizer_json,
    write,
)

TEXTS = ["你好", "the thing  is 12345\n\n x", "it's\tTHE'LL", " lead", "🌍 <|x|>", ""]
WORDS = len(tiktoken_words())


@pytest.fixture
def glm4(tmp_path: Path) -> Tokenizer:
    return load_tokenizer(write(tmp_path, {"tokenizer.model": tiktoken_file()}))


@pytest.fixture
def fast(tmp_path: Path) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    """Ours and transformers' of the same tokenizer.json."""
    config = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    files = {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": config}
    folder = write(tmp_path, files)
    oracle = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), padding_side="left", **config
    )
    return load_tokenizer(folder), oracle


class TestTiktoken:
    @pytest.mark.parametrize("text", TEXTS)
    def test_text_as_tiktoken(self, glm4: Tokenizer, text: str) -> None:
        ranks = {word: rank for rank, word in enumerate(tiktoken_words())}
        oracle = tiktoken.Encoding(
            "small", pat_str=GLM4_PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        ids = glm4.encode(text, add_special_tokens=False)
        assert ids == oracle.encode(text)
        assert glm4.decode(ids) == text

    def test_the_split_pattern(self) -> None:
        """Digits in threes, contractions apart, a blank with the word behind it."""
        regex = pytest.importorskip("regex")
        text = "it'S 12345 x\r\n  end!?\n"
        parts = ["it", "'S", " ", "123", "45", " x", "\r\n", " ", " end", "!?\n"]
        assert regex.findall(GLM4_PATTERN, text) == parts

    def test_specials_follow_the_words(self, glm4: Tokenizer) -> None:
        expected = {name: WORDS + i for i, name in enumerate(GLM_SPECIALS)}
        assert glm4.special_tokens == expected
        assert glm4.vocab_size == WORDS + 14
        assert glm4.variant == "glm-4"
        assert glm4.eos_token_ids == (WORDS, WORDS + 7, WORDS + 9)
        assert glm4.pad_token_id == WORDS
        assert glm4.encode("")[:2] == [WORDS + 2, WORDS + 4]

    def test_specials_of_the_config_count(self, tmp_path: Path) -> None:
        table = {str(WORDS + 5 + i): {"content": n} for i, n in enumerate(GLM_SPECIALS)}
        files = {
            "tokenizer.model": tiktoken_file(),
            "tokenizer_config.json": {"added_tokens_decoder": table},
        }
        found = load_tokenizer(write(tmp_path, files))
        assert found.special_tokens["[gMASK]"] == WORDS + 7
        assert found.encode("你好") == [WORDS + 7, WORDS + 9, *found.encode("你好")[2:]]

    def test_names_in_text_are_text(self, glm4: Tokenizer) -> None:
        ids = glm4.encode("<|user|>", add_special_tokens=False)
        assert max(ids) < WORDS
        called = glm4.encode(
            "the<|user|>the", add_special_tokens=False, encode_special_tokens=True
        )
        the = glm4.encode("the", add_special_tokens=False)
        assert called == [*the, WORDS + 7, *the]

    def test_half_a_character(self, glm4: Tokenizer) -> None:
        assert glm4.decode(list("你".encode())[:2]) == "\ufffd"

    @pytest.mark.parametrize(
        ("data", "culprit"),
        [
            (b"IQ== 0\nnot base64! 1\n", "line 2"),
            (b"IQ== 0\nIg== 1\nIQ== 2\n", "line 3"),
            (b"IQ== 0\nIg== -1\n", "line 2"),
            (b"IQ== 0\nIg== 99999999\n", "line 2"),
            (b"IQ== 0\n", "256 bytes"),
            (tiktoken_file([*tiktoken_words()[:-1]]) + b"YWJj 3\n", "a rank twice"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, data: bytes, culprit: str) -> None:
        folder = write(tmp_path, {"tokenizer.model": data})
        with pytest.raises(TokenizerError, match=culprit):
            load_tokenizer(folder)

    def test_specials_in_the_place_of_words(self, tmp_path: Path) -> None:
        table = {str(9 + i): {"content": n} for i, n in enumerate(GLM_SPECIALS)}
        files = {
            "tokenizer.model": tiktoken_file(),
            "tokenizer_config.json": {"added_tokens_decoder": table},
        }
        with pytest.raises(TokenizerError, match="do not follow them"):
            load_tokenizer(write(tmp_path, files))


Pair = tuple[Tokenizer, PreTrainedTokenizerFast]


class TestTokenizerJson:
    @pytest.mark.parametrize("text", [*TEXTS, "a<|user|>b <think>c"])
    def test_text_as_transformers(self, fast: Pair, text: str) -> None:
        ours, oracle = fast
        plain = oracle(text, split_special_tokens=True)["input_ids"]
        assert ours.encode(text) == plain
        assert ours.encode(text, encode_special_tokens=True) == oracle.encode(text)
        for skip in (False, True):
            theirs = oracle.decode(plain, skip_special_tokens=skip)
            assert ours.decode(plain, skip_special_tokens=skip) == theirs

    def test_pairs_and_batches_as_transformers(self, fast: Pair) -> None:
        ours, oracle = fast
        assert ours.encode("the", "good") == oracle.encode("the", "good")
        texts = ["你好 the weather", "x", "today is"]
        theirs = oracle(texts, return_tensors="pt", padding=True)
        found = ours(texts, return_tensors="pt")
        for name in ("input_ids", "attention_mask"):
            assert torch.equal(found[name], theirs[name])

    def test_control_another_file_differs(self, fast: Pair, tmp_path: Path) -> None:
        other = write(tmp_path / "b", {"tokenizer.json": tokenizer_json("<sop> $A")})
        assert load_tokenizer(other).encode("你好") != fast[1].encode("你好")

    def test_ends(self, tmp_path: Path) -> None:
        found = load_tokenizer(
            write(
                tmp_path,
                {
                    "tokenizer.json": tokenizer_json(),
                    "tokenizer_config.json": {
                        "eos_token": {"content": "<|endoftext|>"}
                    },
                    "generation_config.json": {"eos_token_id": [7, 9]},
                },
            )
        )
        end = found.special_tokens["<|endoftext|>"]
        assert found.eos_token_ids == (end, 7, 9)
        assert found.eos_token_id == found.pad_token_id == end

    def test_ends_of_glm_are_known(self, tmp_path: Path) -> None:
        found = load_tokenizer(write(tmp_path, {"tokenizer.json": tokenizer_json()}))
        names = ("<|endoftext|>", "<|user|>", "<|observation|>")
        assert found.eos_token_ids == tuple(found.special_tokens[n] for n in names)

    def test_truncation_and_padding_of_the_file_do_not_count(
        self, tmp_path: Path
    ) -> None:
        tree = json.loads(tokenizer_json())
        tree["truncation"] = {
            "max_length": 3,
            "strategy": "LongestFirst",
            "stride": 0,
            "direction": "Right",
        }
        found = load_tokenizer(write(tmp_path, {"tokenizer.json": tree}))
        assert len(found.encode("the weather is good")) > 3

    def test_the_config_names_another_id(self, tmp_path: Path) -> None:
        config = {"added_tokens_decoder": {"3": {"content": "<|user|>"}}}
        files = {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": config}
        with pytest.raises(TokenizerError, match=r"'<\|user\|>', but .* says 3"):
            load_tokenizer(write(tmp_path, files))

    @pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": {"type": "BPE"}}'])
    def test_damaged_files(self, tmp_path: Path, text: str) -> None:
        folder = write(tmp_path, {"tokenizer.json": text})
        with pytest.raises(TokenizerError, match="cannot be used"):
            load_tokenizer(folder)
