"""Mutated indexes, headers and pickles: what `check` refuses `load` refuses."""

from __future__ import annotations

import importlib
import io
import json
import os
import random
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from glmc.backends.runtime import folders
from glmc.compile.accounting import account, wanted
from glmc.compile.checkpoints import read_headers
from glmc.compile.driver import compile_model
from glmc.ir.errors import CheckpointMismatchError, GlmcError, WeightsUnusableError
from glmc.look.builds import Build
from support import builds
from support.fuzzing import Target, faults, mutate_json, mutate_text

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or not hasattr(os, "fork"),
    reason="limits of a child process, as Linux has them",
)

QUICK, SLOW = 200, 2000
CONFIG = {
    **{"model_type": "llama", "vocab_size": 24, "hidden_size": 16},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24},
    "tie_word_embeddings": True,
}
HOME = Path(tempfile.mkdtemp(prefix="fuzzed-checkpoints-"))
(HOME / "config.json").write_text(json.dumps(CONFIG))
(HOME / "pytorch_model.bin").touch()  # so that the build reads pickles
BUILD = Build(compile_model(HOME / "config.json", HOME / "build"))
PACKAGE = builds.import_build(HOME / "build")
SHAPES = {name: need.shape or () for name, need in wanted(BUILD.program).items()}
TENSORS = {
    name: torch.linspace(-1.0, 1.0, torch.Size(shape).numel()).reshape(shape)
    for name, shape in SHAPES.items()
}
FIRST, SECOND = "model-1.safetensors", "model-2.safetensors"
HALVES = {
    FIRST: {name: TENSORS[name] for name in list(TENSORS)[::2]},
    SECOND: {name: TENSORS[name] for name in list(TENSORS)[1::2]},
}


@pytest.fixture(scope="module", autouse=True)
def _gone_afterwards() -> Iterator[None]:
    yield
    shutil.rmtree(HOME, ignore_errors=True)


def both(folder: Path) -> None:
    """Asks check and load; fails where load takes what check refuses."""
    refusal: GlmcError | None
    try:
        found = account(BUILD.model, BUILD.program, read_headers(folder).tensors)
        refusal = None if found.ok else CheckpointMismatchError("tensors do not fit")
    except GlmcError as error:
        refusal = error
    try:
        PACKAGE.load(folder, dtype="float32")
    except ValueError as error:
        if "\n" in str(error):
            raise AssertionError(f"no paragraph: {error}") from None
        raise refusal or WeightsUnusableError(str(error)) from None
    assert refusal is None, f"check refuses, and load does not: {refusal}"


def emptied(folder: Path) -> Path:
    fresh = folder / "checkpoint"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    return fresh


def indexed(text: str, folder: Path) -> None:
    """An index beside two sound shards."""
    made = emptied(folder)
    for name, part in HALVES.items():
        save_file(part, made / name)
    index = made / "model.safetensors.index.json"
    index.write_text(text, "utf-8", errors="surrogatepass")
    both(made)


def headed(text: str, folder: Path) -> None:
    """A header before the bytes of sound tensors."""
    made, header = emptied(folder), text.encode("utf-8", errors="surrogatepass")
    content = len(header).to_bytes(8, "little") + header + DATA
    (made / "model.safetensors").write_bytes(content)
    both(made)


def whole(name: str) -> Callable[[str, Path], None]:
    """A file, byte for byte."""

    def act(text: str, folder: Path) -> None:
        made = emptied(folder)
        (made / name).write_bytes(text.encode("latin-1", errors="replace"))
        both(made)

    return act


def pickled(text: str, folder: Path) -> None:
    """The pickle of a `.bin` before sound records."""
    made = emptied(folder)
    with zipfile.ZipFile(made / "pytorch_model.bin", "w") as archive:
        for name, data in RECORDS.items():
            changed = text.encode("latin-1", errors="replace")
            archive.writestr(name, changed if name.endswith("data.pkl") else data)
    both(made)


def mutate_bytes(rnd: random.Random, text: str) -> str:
    """One change to bytes, of which each is a character."""
    at = rnd.randrange(len(text) + 1)
    to = min(len(text), at + rnd.choice((1, 1, 1, 2, 8, 64)))
    other = rnd.randrange(len(text) + 1)
    match rnd.randrange(6):
        case 0:
            return text[:at] + text[to:]
        case 1:
            return text[:to] + text[at:]
        case 2:
            return text[:at] + text[other : other + to - at] + text[to:]
        case 3:
            return text[:to]
    made = "".join(chr(rnd.randrange(256)) for _ in range(to - at))
    return text[:at] + made + text[to:]


def swapped(rnd: random.Random, text: str) -> str:
    """One dtype of storages for another, one tensor's name for another, or bytes."""
    kinds = ("FloatStorage", "HalfStorage", "LongStorage", "CharStorage", "BoolStorage")
    if rnd.random() < 0.3:
        return text.replace(rnd.choice(kinds), rnd.choice(kinds), 1)
    if rnd.random() < 0.3:
        one, other = rnd.choice(list(TENSORS)), rnd.choice(list(TENSORS))
        return text.replace(one, other, 1) if len(one) == len(other) else text
    return mutate_bytes(rnd, text)


def _saved(zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(TENSORS, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


SAFETENSORS = save(TENSORS, metadata={"format": "pt"})
_LENGTH = int.from_bytes(SAFETENSORS[:8], "little")
HEADER, DATA = SAFETENSORS[8 : 8 + _LENGTH].decode(), SAFETENSORS[8 + _LENGTH :]
with zipfile.ZipFile(io.BytesIO(_saved(zipped=True))) as _archive:
    RECORDS = {info.filename: _archive.read(info) for info in _archive.infolist()}
PICKLE = next(data for name, data in RECORDS.items() if name.endswith("data.pkl"))
INDEX = json.dumps({"weight_map": {n: f for f, part in HALVES.items() for n in part}})
TARGETS = (
    Target("index", (INDEX,), mutate_json, indexed),
    Target("header", (HEADER,), mutate_json, headed),
    Target("header text", (HEADER,), mutate_text, headed),
    Target(
        "safetensors",
        (SAFETENSORS.decode("latin-1"),),
        mutate_bytes,
        whole("model.safetensors"),
    ),
    Target("pickle", (PICKLE.decode("latin-1"),), swapped, pickled),
    Target(
        "bin",
        (_saved(zipped=True).decode("latin-1"),),
        mutate_bytes,
        whole("pytorch_model.bin"),
    ),
    Target(
        "old bin",
        (_saved(zipped=False).decode("latin-1"),),
        swapped,
        whole("pytorch_model.bin"),
    ),
)


def none_fails(target: Target, count: int, folder: Path) -> None:
    found, answers = faults(target, count, folder)
    assert not found, "\n\n".join(map(str, found[:5]))
    assert answers, "nothing was loaded"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_load_believes_no_more_than_check(target: Target, tmp_path: Path) -> None:
    none_fails(target, QUICK, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_ten_times_as_many(target: Target, tmp_path: Path) -> None:
    none_fails(target, SLOW, tmp_path)


def test_control_a_load_that_believes_more_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted mistake: in the build an index is not held against its shards."""
    inner = importlib.import_module(f"{PACKAGE.__name__}.folders")
    monkeypatch.setattr(inner, "_compare", lambda *told: None)
    assert folders._compare is not inner._compare
    found, _ = faults(TARGETS[0], QUICK, tmp_path)
    assert any("check refuses, and load does not" in one.told for one in found)
