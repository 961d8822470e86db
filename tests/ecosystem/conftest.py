"""A tiny Llama with a tokenizer, its build, and an exported repository of it.

These tests need the packages of the group `ecosystem`, which `make test-ecosystem`
installs; without them they are not collected.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

NEEDED = ("accelerate", "lm_eval", "peft", "sentence_transformers", "uvicorn")
collect_ignore_glob = [] if all(map(find_spec, NEEDED)) else ["test_*.py"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
# Code of repositories goes to a cache of this run's own. Read as transformers begins.
MODULES = TemporaryDirectory(prefix="glmc-modules-")
os.environ["HF_MODULES_CACHE"] = MODULES.name


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support import tiny
    from support.variants import Variant
    from support.vocabularies import tokenizer_json, write

    folder = tmp_path_factory.mktemp("ecosystem") / "llama"
    sizes = {"vocab_size": 400, "max_position_embeddings": 128}
    tokens = {"eos_token_id": 320, "pad_token_id": 320, "bos_token_id": 322}
    tiny.make(Variant("llama", "ecosystem", sizes | tokens), folder)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    files = {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": config}
    return write(folder, files)


@pytest.fixture(scope="session")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from glmc import compile_model

    return compile_model(checkpoint, tmp_path_factory.mktemp("built") / "build")


@pytest.fixture(scope="session")
def package(built: Path) -> Any:
    from support import builds

    return builds.import_build(built)


@pytest.fixture(scope="session")
def repository(
    built: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from glmc.command.cli import main

    out = tmp_path_factory.mktemp("exported") / "tiny-llama"
    assert (
        main(["export", str(built), "--weights", str(checkpoint), "-o", str(out)]) == 0
    )
    return out


@pytest.fixture
def ours(package: Any, checkpoint: Path) -> Any:
    return package.hf.from_pretrained(checkpoint, dtype="float32")


@pytest.fixture
def theirs(checkpoint: Path) -> Any:
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(checkpoint)
