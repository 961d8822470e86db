"""Tiny checkpoints with a tokenizer of their own: enough to hold a conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch

from support import GOLDEN
from support.variants import Variant
from support.vocabularies import ice_model, sentencepiece_model, tokenizer_json, write

#: The tokens of tokenizer_json that end an answer.
GLM = Variant(
    "glm",
    "talker",
    {"vocab_size": 400, "eos_token_id": [320, 327], "pad_token_id": 320},
)


def glm(folder: Path) -> Path:
    """A checkpoint of transformers' glm with a tokenizer.json of GLM-4's roles."""
    from support import tiny

    tiny.make(GLM, folder)
    return write(folder, {"tokenizer.json": tokenizer_json()})


def chatglm3(folder: Path) -> Path:
    """The golden ChatGLM3 with as many rows as its SentencePiece vocabulary needs."""
    files = {"tokenizer.model": sentencepiece_model()}
    return _resized("chatglm3", folder, {"padded_vocab_size": 448}, 448, files)


def chatglm(folder: Path) -> Path:
    """The golden ChatGLM-6B with the rows and ids of an ice_text.model."""
    model = ice_model()
    piece = sentencepiece.SentencePieceProcessor(model_proto=model).piece_to_id
    rows = 544
    changes = {
        "vocab_size": rows,
        "gmask_token_id": piece("[gMASK]"),
        "mask_token_id": piece("[MASK]"),
        "bos_token_id": piece("<sop>"),
        "eos_token_id": piece("<eop>"),
        "pad_token_id": piece("<pad>"),
    }
    settings = {"num_image_tokens": 0}
    files = {"ice_text.model": model, "tokenizer_config.json": settings}
    return _resized("chatglm", folder, changes, rows, files)


def _resized(
    name: str,
    folder: Path,
    changes: Mapping[str, object],
    rows: int,
    files: Mapping[str, Any],
) -> Path:
    """A golden checkpoint with another vocabulary."""
    source = GOLDEN / name
    tensors: dict[str, torch.Tensor] = {}
    for shard in source.glob("*.bin"):
        tensors |= torch.load(shard, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    wide = [
        n for n in tensors if n.endswith(("word_embeddings.weight", "layer.weight"))
    ]
    wide += [n for n in tensors if n == "lm_head.weight"]
    made = None
    for tensor in sorted(wide):
        if made is None or name != "chatglm":  # ChatGLM-6B stores one matrix twice
            width = tensors[tensor].shape[1]
            made = torch.randn(rows, width, generator=generator)
        tensors[tensor] = made
    config = json.loads((source / "config.json").read_text()) | changes
    write(folder, {"config.json": config, **files})
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder
