"""Memory for weights: every tensor a storage of its own, and gone with the model."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from glmc.backends.runtime.large_pages import PIECE, Room
from support import GOLDEN, builds

CHATGLM3 = GOLDEN / "chatglm3"


@pytest.fixture(scope="module")
def build(shared_folder: Path) -> Any:
    def make(folder: Path) -> None:
        compile_model(CHATGLM3, folder / "build", target="cpu")

    folder = builds.once(shared_folder / "cpu" / "golden", make) / "build"
    return builds.import_build(folder)


def test_tensors_lie_apart_at_whole_lines() -> None:
    room = Room(1000)
    first = room.tensor((3, 5), torch.float32).fill_(1)
    second = room.tensor((7,), torch.bfloat16).fill_(2)
    third = room.tensor((1000,), torch.float32)  # more than there is
    assert second.data_ptr() - first.data_ptr() == 64
    assert third.fill_(3).data_ptr() - first.data_ptr() not in range(1000)
    assert first.untyped_storage().nbytes() == 60
    assert first.eq(1).all()
    assert second.eq(2).all()
    assert room.tensor((0, 4), torch.float32).shape == (0, 4)


def test_files_are_read_whole_or_refused(tmp_path: Path) -> None:
    size = 2 * PIECE + 77
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    (tmp_path / "file").write_bytes(b"header" + data.numpy().tobytes())
    room = Room(size)
    room.read(tmp_path / "file", 6)
    assert torch.equal(room.at(0, (size,), torch.uint8), data)
    with pytest.raises(OSError, match="became shorter"):
        room.read(tmp_path / "file", 7)


def test_a_file_that_becomes_shorter_while_it_is_read_is_packed_again(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = build.load(CHATGLM3, pack_cache=tmp_path).packed_in
    whole = file.read_bytes()
    kind = importlib.import_module(f"{build.__name__}.packed_file").PackedFile
    monkeypatch.setattr(kind, "_fault", lambda self: None)
    file.write_bytes(whole[:-100])
    with pytest.warns(UserWarning, match="cannot be read .*; the weights are read and"):
        model = build.load(CHATGLM3, pack_cache=tmp_path)
    assert model.packed_in == file
    assert file.read_bytes() == whole


def test_weights_go_with_their_model(build: Any) -> None:
    model = build.load(CHATGLM3)
    model(torch.tensor([[5, 6]]))
    weights = [weakref.ref(weight) for weight in model.parameters()]
    gc.disable()
    try:
        del model
        assert not [one for one in weights if one() is not None]
    finally:
        gc.enable()


def test_a_start_imports_no_more_than_torch(build: Any, tmp_path: Path) -> None:
    """Asked in the wrong way, torch loads half of itself."""
    folder = Path(build.__file__).parent
    script = f"""
import sys
import torch
known = set(sys.modules)
sys.path.insert(0, {str(folder.parent)!r})
import build
for _ in range(2):
    model = build.load({str(CHATGLM3)!r}, pack_cache={str(tmp_path)!r})
model(torch.tensor([[5, 6]]))
assert model.packed_in and model.engine
heavy = ("sympy", "triton", "transformers", "torch._dynamo", "torch._inductor")
heavy += ("torch.distributed.tensor",)
print([name for name in heavy if name in set(sys.modules) - known])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
