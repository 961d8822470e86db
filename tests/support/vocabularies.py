"""Small vocabularies in the published formats, and folders that hold them."""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

LINES = [
    "今天天气真好 the weather is good today",
    "你好 你好 hello world the the the",
    "问\uff1a你好 答\uff1a你好 [Round 1] user assistant",
    "def main(): return 1234567890 # language",
    "isopod soporific gMASK user assistant observation",
]
ICE_SPECIALS = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<unused_0>",
    "<sop>",
    "<eop>",
    "<ENC>",
    "<dBLOCK>",
)
BLANKS = [f"<|blank_{n}|>" for n in range(2, 81)]
GLM_SPECIALS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)

Files = Mapping[str, Any]


def write(folder: Path, files: Files) -> Path:
    """The folder with these files; mappings become JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, Mapping):
            content = json.dumps(content)
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    return folder


@functools.cache
def sentencepiece_model() -> bytes:
    """As tokenizer.model of ChatGLM2 and 3: <unk>, <s>, </s>, bytes, merges."""
    return _trained(vocab_size=420, model_type="bpe", byte_fallback=True)


@functools.cache
def ice_model(early: bool = False, specials_as_text: bool = False) -> bytes:
    """As ice_text.model: `<pad>` 3, `<n>` 4; the early one lacks all the rest.

    With `specials_as_text` its special pieces are such that text makes them.
    """
    if early:
        return _trained(
            vocab_size=170,
            model_type="bpe",
            pad_id=3,
            pad_piece="<pad>",
            user_defined_symbols=["<n>"],
        )
    called = list(ICE_SPECIALS) if specials_as_text else []
    return _trained(
        vocab_size=520,
        model_type="bpe",
        pad_id=3,
        pad_piece="<pad>",
        byte_fallback=True,
        user_defined_symbols=["<n>", "<|tab|>", *BLANKS, *called],
        control_symbols=[] if specials_as_text else list(ICE_SPECIALS),
    )


def _trained(**options: Any) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 4),
        model_writer=out,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


def tiktoken_words() -> list[bytes]:
    """The 256 bytes and some merges, in the order of their ranks."""
    merges = ["th", "the", " t", " the", "你"[:1], "好", "你好", "<|", "in", "ing"]
    words = [bytes([b]) for b in range(256)]
    partial = ["你".encode()[:2], "好".encode()[:2]]
    return words + partial + [m.encode() for m in merges]


def tiktoken_file(words: list[bytes] | None = None) -> bytes:
    """As tokenizer.model of GLM-4: a word in base64 and its rank on each line."""
    lines = [
        base64.b64encode(word) + b" " + str(rank).encode()
        for rank, word in enumerate(words or tiktoken_words())
    ]
    return b"\n".join(lines) + b"\n"


@functools.cache
def tokenizer_json(prompt: str = "[gMASK] <sop> $A") -> str:
    """A byte-level BPE with GLM-4's special tokens and `<think>`, not special."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(LINES, trainer)
    made.add_special_tokens(list(GLM_SPECIALS))
    made.add_tokens([AddedToken("<think>", normalized=False)])
    ids = [(n, made.token_to_id(n)) for n in ("[gMASK]", "<sop>")]
    made.post_processor = processors.TemplateProcessing(
        single=prompt, pair=f"{prompt} $B:1", special_tokens=ids
    )
    return made.to_str()
