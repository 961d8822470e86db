"""A folder's tokenizer is identified, and mixes of files are refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmc.backends.runtime.tokenizer import load_tokenizer
from glmc.backends.runtime.tokenizer.files import TokenizerError
from glmc.backends.runtime.tokenizer.identity import (
    configured_variants,
    named_variant,
)
from support.vocabularies import (
    ice_model,
    sentencepiece_model,
    tiktoken_file,
    tokenizer_json,
    write,
)

LATER: dict[str, Any] = {"model_type": "chatglm", "padded_vocab_size": 65024}


def described(folder: Path, config: dict[str, Any], own: dict[str, Any]) -> Path:
    files = {
        "tokenizer.model": sentencepiece_model(),
        "config.json": config,
        "tokenizer_config.json": own,
    }
    return write(folder, files)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("THUDM/chatglm-6b", "chatglm"),
        ("THUDM/chatglm-6b-int4-qe", "chatglm"),
        ("THUDM/chatglm2-6b-32k", "chatglm2"),
        ("chatglm3-6b-128k", "chatglm3"),
        ("/data/models/chatglm3-6b/", "chatglm3"),
        ("THUDM/codegeex2-6b", "codegeex2"),
        ("THUDM/glm4-9b-chat", "glm-4"),
        ("THUDM/glm-4v-9b", "glm-4"),
        ("codegeex4-all-9b", "glm-4"),
        ("THUDM/chatglm9-6b", None),
        ("meta-llama/Llama-2", None),
        (None, None),
        (7, None),
    ],
)
def test_names(name: object, variant: str | None) -> None:
    assert named_variant(name) == variant


@pytest.mark.parametrize(
    ("config", "variants"),
    [
        ({"position_encoding_2d": True, "vocab_size": 130528}, ["chatglm"]),
        ({"inner_hidden_size": 16}, ["chatglm"]),
        ({"padded_vocab_size": 151552}, ["glm-4"]),
        ({"ffn_hidden_size": 8, "vision_config": {}}, ["glm-4"]),
        ({"padded_vocab_size": 65024, "rotary_percent": 0.5}, ["codegeex2"]),
        ({"padded_vocab_size": 65024}, ["chatglm2", "chatglm3", "codegeex2"]),
    ],
)
def test_keys_decide_first(config: dict[str, Any], variants: list[str]) -> None:
    assert list(configured_variants({"model_type": "chatglm"} | config)) == variants


@pytest.mark.parametrize(
    ("config", "own", "variant"),
    [
        ({"_name_or_path": "THUDM/chatglm3-6b"}, {}, "chatglm3"),
        ({}, {"name_or_path": "THUDM/chatglm2-6b"}, "chatglm2"),
        # The int4 repository of ChatGLM2 has the name of ChatGLM-6B there.
        (
            {"_name_or_path": "THUDM/chatglm2-6b"},
            {"name_or_path": "THUDM/chatglm-6b"},
            "chatglm2",
        ),
        ({"transformers_version": "4.27.1"}, {}, "chatglm2"),
        ({"seq_length": 32768}, {}, "chatglm2"),
        ({"transformers_version": "4.30.2", "seq_length": 8192}, {}, "chatglm3"),
        ({"transformers_version": "4.30.2", "rope_ratio": 50}, {}, "chatglm3"),
        ({}, {"chat_template": "{{ 1 }}<|assistant|>"}, "chatglm3"),
        ({"interleaved_qkv": False, "transformers_version": "4.30.2"}, {}, "codegeex2"),
    ],
)
def test_hints(
    tmp_path: Path, config: dict[str, Any], own: dict[str, Any], variant: str
) -> None:
    folder = described(tmp_path, LATER | config, own)
    assert load_tokenizer(folder).variant == variant


def test_the_folder_is_a_name_too(tmp_path: Path) -> None:
    folder = described(tmp_path / "chatglm3-6b", LATER, {})
    assert load_tokenizer(folder).variant == "chatglm3"


@pytest.mark.parametrize(
    ("config", "own"),
    [
        (LATER, {}),
        (LATER | {"rope_ratio": 8}, {}),
        (LATER | {"_name_or_path": "chatglm2-6b"}, {"name_or_path": "chatglm3-6b"}),
    ],
)
def test_undecided_names_the_option(
    tmp_path: Path, config: dict[str, Any], own: dict[str, Any]
) -> None:
    folder = described(tmp_path, config, own)
    with pytest.raises(TokenizerError, match=r"chatglm2 or .*variant=.*--variant"):
        load_tokenizer(folder)
    assert load_tokenizer(folder, variant="chatglm3").variant == "chatglm3"
    assert load_tokenizer(folder, variant="chatglm2-6b").variant == "chatglm2"


def test_unknown_and_unfitting_variants(tmp_path: Path) -> None:
    folder = described(tmp_path, LATER, {})
    with pytest.raises(TokenizerError, match="'gpt' is unknown; give one of chatglm,"):
        load_tokenizer(folder, variant="gpt")
    with pytest.raises(TokenizerError, match="'glm-4' is asked for, but"):
        load_tokenizer(folder, variant="glm-4")


FIRST = {"model_type": "chatglm", "inner_hidden_size": 16}
MIXES: dict[str, tuple[dict[str, Any], str]] = {
    "early ids, current model": (
        {
            "ice_text.model": ice_model(early=True),
            "config.json": FIRST | {"vocab_size": 130528},
            "tokenizer_config.json": {"num_image_tokens": 20000},
        },
        "num_image_tokens 20000 is a tokenizer of the 150528 generation.*130528",
    ),
    "current ids, early model": (
        {
            "ice_text.model": ice_model(),
            "config.json": FIRST | {"vocab_size": 150528},
            "tokenizer_config.json": {"num_image_tokens": 0},
        },
        "num_image_tokens 0 is a tokenizer of the 130528 generation.*150528",
    ),
    "special ids of another generation": (
        {
            "ice_text.model": ice_model(),
            "config.json": FIRST | {"gmask_token_id": 130001},
        },
        "gmask_token_id = 130001; they are of different generations",
    ),
    "more ids than rows": (
        {
            "ice_text.model": ice_model(),
            "config.json": FIRST | {"vocab_size": 200},
        },
        "ids up to [0-9]+, but config.json beside it has 200 rows",
    ),
    "the early vocabulary of a model with fewer rows": (
        {
            "ice_text.model": ice_model(early=True),
            "config.json": FIRST | {"vocab_size": 20100},
        },
        "150528 and 130528 ids",
    ),
    "sentencepiece for GLM-4": (
        {
            "tokenizer.model": sentencepiece_model(),
            "config.json": {"model_type": "chatglm", "padded_vocab_size": 151552},
        },
        r"\(sentencepiece\), but its config.json describes glm-4",
    ),
    "tiktoken for ChatGLM3": (
        {"tokenizer.model": tiktoken_file(), "config.json": LATER},
        r"\(tiktoken\), but its config.json describes chatglm2 or chatglm3",
    ),
    "ice_text for ChatGLM3": (
        {"ice_text.model": ice_model(), "config.json": LATER},
        r"\(ice_text.model\), but its config.json describes chatglm2",
    ),
    "sentencepiece of another model": (
        {
            "tokenizer.model": sentencepiece_model(),
            "config.json": {"model_type": "llama"},
        },
        "model_type 'llama'.* tokenizer.json",
    ),
    "ends of another vocabulary": (
        {
            "tokenizer.json": tokenizer_json(),
            "config.json": {"model_type": "glm4", "eos_token_id": [154820, 154827]},
        },
        "no special token .*eos_token_id = 154820, 154827",
    ),
    "ends of another file": (
        {
            "tokenizer.model": tiktoken_file(),
            "config.json": {"model_type": "chatglm", "eos_token_id": 151329},
        },
        "no special token .*eos_token_id = 151329",
    ),
    "words beyond the rows": (
        {
            "tokenizer.json": tokenizer_json(),
            "config.json": {"model_type": "glm4", "vocab_size": 300},
        },
        "ids up to 319, but config.json beside it has 300 rows",
    ),
}


@pytest.mark.parametrize("mix", MIXES)
def test_mixes_are_refused_with_a_cause(tmp_path: Path, mix: str) -> None:
    files, cause = MIXES[mix]
    with pytest.raises(TokenizerError, match=cause):
        load_tokenizer(write(tmp_path, files))


def test_control_the_files_alone_load(tmp_path: Path) -> None:
    """It is the mix that is refused: without config.json each of them loads."""
    for mix, (files, _) in MIXES.items():
        alone = {name: data for name, data in files.items() if name != "config.json"}
        variant = "chatglm3" if "sentencepiece" in mix else None
        load_tokenizer(write(tmp_path / mix, alone), variant=variant)


def test_the_model_class_is_compared(tmp_path: Path) -> None:
    early = write(tmp_path, {"ice_text.model": ice_model(early=True)})
    eop = load_tokenizer(early).eos_token_id
    current = SimpleNamespace(vocab_size=130528, eos_token_id=(130005,))
    with pytest.raises(TokenizerError, match="this model is of the 130528 one"):
        load_tokenizer(early, model_class=current)
    small = SimpleNamespace(vocab_size=100, eos_token_id=())
    with pytest.raises(TokenizerError, match="this model has 100 rows"):
        load_tokenizer(early, model_class=small)
    other = SimpleNamespace(vocab_size=150528, eos_token_id=(130005,))
    with pytest.raises(TokenizerError, match="compiled to stop at 130005"):
        load_tokenizer(early, model_class=other)
    fits = SimpleNamespace(vocab_size=150528, eos_token_id=(eop,))
    assert load_tokenizer(early, model_class=fits).eos_token_id == eop


@pytest.mark.parametrize(
    ("early", "config", "own", "offset"),
    [
        (False, {}, {}, 0),
        (True, {}, {}, 20000),
        (False, {"vocab_size": 130528}, {}, 0),
        (True, {"vocab_size": 150528}, {}, 20000),
        # The later file with the ids of the early model, as the code's default.
        (False, {"vocab_size": 150528}, {}, 20000),
        (False, {}, {"num_image_tokens": 20000}, 20000),
    ],
)
def test_image_tokens(
    tmp_path: Path,
    early: bool,
    config: dict[str, Any],
    own: dict[str, Any],
    offset: int,
) -> None:
    files = {
        "ice_text.model": ice_model(early=early),
        "config.json": FIRST | config,
        "tokenizer_config.json": own,
    }
    found = load_tokenizer(write(tmp_path, files))
    assert found.pad_token_id == 3 + offset
