"""Emitted code and dumps, line by line, as they were last reviewed.

A change of what is emitted shows up here as a diff to be read. After reading it:
``UPDATE_GOLDEN=1 python -m pytest tests/face/test_golden_builds.py``.
"""

import os
from pathlib import Path

import pytest

from glmc.driver import Options, compile_files
from support import GOLDEN, ROOT

FILES = ("model.py", "weights.py", "ir/13-qkv-attention.glmc")


@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "chatglm3-6b", "llama-3.1-70b"])
@pytest.mark.parametrize("file", FILES)
def test_what_is_emitted(name: str, file: str) -> None:
    config = ROOT / "examples" / "configs" / f"{name}.json"
    text = compile_files(config, Options()).files[file]
    kept = GOLDEN / "builds" / name / Path(file).name
    if os.environ.get("UPDATE_GOLDEN"):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text, encoding="utf-8")
    assert text == kept.read_text("utf-8")
