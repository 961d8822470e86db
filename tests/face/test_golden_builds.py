"""Emitted code and dumps, line by line, as they were last reviewed.

A change of what is emitted shows up here as a diff to be read. After reading it:
``UPDATE_GOLDEN=1 python -m pytest tests/face/test_golden_builds.py`` writes all of them
anew, and takes away what a build has no more.
"""

import os
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import PurePath

import pytest

from glmc.compile.driver import Options, compile_files
from support import GOLDEN, ROOT

NAMES = ("all-minilm-l6-v2", "chatglm3-6b", "llama-3.1-70b")
KEPT = ("model.py", "weights.py", "ir/*.glmc")


@cache
def emitted(name: str) -> Mapping[str, str]:
    """The module, its weights, and the dump of every stage."""
    config = ROOT / "examples" / "configs" / f"{name}.json"
    files = compile_files(config, Options()).files
    return {
        file: text
        for file, text in files.items()
        if isinstance(text, str) and any(PurePath(file).match(kept) for kept in KEPT)
    }


def golden(name: str) -> Mapping[str, str]:
    """The same files as they lie there."""
    folder = GOLDEN / "builds" / name
    if os.environ.get("UPDATE_GOLDEN"):
        shutil.rmtree(folder, ignore_errors=True)
        for file, text in emitted(name).items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    found = (path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): p.read_text("utf-8") for p in found}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_emitted(name: str) -> None:
    kept = golden(name)
    assert sorted(kept) == sorted(emitted(name))
    for file, text in emitted(name).items():
        assert text == kept[file], file


def test_every_stage_is_among_them() -> None:
    files = emitted("llama-3.1-70b")
    assert {"model.py", "weights.py", "ir/0-model.glmc"} <= files.keys()
    stages = {"lowered", "merge-qkv", "merge-gate-up", "linear-act", "qkv-attention"}
    assert stages <= {file.partition("-")[2].removesuffix(".glmc") for file in files}
    # A pass that changes nothing writes no dump.
    assert not any(file.endswith("-keep-quantized.glmc") for file in files)
