"""Packed weights in a file: mapped where they are those, else packed again."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from glmc import compile_model
from glmc.command.cli import main
from glmc.ir.errors import UnknownDeviceError
from support import GOLDEN, builds
from support.cli import glmc, refused

CHATGLM3 = GOLDEN / "chatglm3"
IDS = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])


@pytest.fixture(scope="module")
def build(shared_folder: Path) -> Any:
    def make(folder: Path) -> None:
        compile_model(CHATGLM3, folder / "build", target="cpu")

    folder = builds.once(shared_folder / "cpu" / "golden", make) / "build"
    return builds.import_build(folder)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    shutil.copytree(CHATGLM3, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def unread(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no weight of a checkpoint may be read."""

    def read(*_: Any) -> Any:
        raise AssertionError("a weight was read")

    kind = importlib.import_module(f"{build.__name__}.checkpoint").Checkpoint
    monkeypatch.setattr(kind, "read", read)


def test_a_second_start_maps_what_the_first_wrote(
    build: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build.load(checkpoint, pack_cache=tmp_path / "kept")
    assert first.packed_in == tmp_path / "kept" / "f32.safetensors"
    assert [p.name for p in first.packed_in.parent.iterdir()] == ["f32.safetensors"]
    bytes_ = first.packed_in.read_bytes()
    assert len(load_file(first.packed_in)) == len(first.bound)  # the library's reader
    expected, held = first(IDS).logits, first.state_dict()
    unread(build, monkeypatch)
    again = build.load(checkpoint, pack_cache=tmp_path / "kept")
    assert again.engine is not None
    assert torch.equal(again(IDS).logits, expected)
    assert all(torch.equal(w, held[n]) for n, w in again.state_dict().items())
    with torch.no_grad():
        for weight in again.parameters():
            weight.mul_(2)
    assert not torch.equal(again(IDS).logits, expected)
    assert first.packed_in.read_bytes() == bytes_
    with pytest.raises(AssertionError, match="a weight was read"):
        build.load(checkpoint)


def changed(checkpoint: Path, file: Path) -> None:
    """Other weights under the same headers."""
    shard = min(checkpoint.glob("*.bin"))
    weights = torch.load(shard)
    torch.save({name: weight * 1.5 for name, weight in weights.items()}, shard)


def cut(checkpoint: Path, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-64])


def longer_header(checkpoint: Path, file: Path) -> None:
    """A header that promises more than there is."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = next(n for n in header if n != "__metadata__")
    header[name]["data_offsets"][1] = 1 << 60
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def emptied(checkpoint: Path, file: Path) -> None:
    file.write_bytes(b"")


def replaced(checkpoint: Path, file: Path) -> None:
    """A folder in its place."""
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (changed, "is of other weights"),
        (cut, "is damaged: it has"),
        (longer_header, "is of other weights"),
        (emptied, "is of other weights"),
    ],
)
def test_what_cannot_be_mapped_is_packed_again(
    build: Any,
    checkpoint: Path,
    tmp_path: Path,
    spoil: Callable[[Path, Path], None],
    sentence: str,
) -> None:
    file = build.load(checkpoint, pack_cache=tmp_path / "kept").packed_in
    whole = file.read_bytes()
    spoil(checkpoint, file)
    with pytest.warns(UserWarning, match=sentence):
        model = build.load(checkpoint, pack_cache=tmp_path / "kept")
    assert (file.read_bytes() == whole) == (spoil is not changed)
    assert torch.equal(model(IDS).logits, build.load(checkpoint)(IDS).logits)


def test_what_cannot_be_written_is_a_warning(
    build: Any, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"cannot be written \(.*\), so the packed"):
        model = build.load(checkpoint, pack_cache=tmp_path / "file")
    assert model.packed_in is None
    assert model.engine is not None
    file = build.load(checkpoint, pack_cache=tmp_path / "kept").packed_in
    replaced(checkpoint, file)
    with pytest.warns(UserWarning, match=r"cannot be (read|written)"):
        model = build.load(checkpoint, pack_cache=tmp_path / "kept")
    assert model.packed_in is None
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_where_memory_does_not_suffice_the_reference_runs(
    build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = build.load(CHATGLM3)(IDS).logits
    kind = importlib.import_module(f"{build.__name__}.packed").PackedWeight
    pack, calls = kind.pack, []

    def short(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return pack(*arguments)

    monkeypatch.setattr(kind, "pack", short)
    with pytest.warns(UserWarning, match="was not enough memory to pack layers"):
        model = build.load(CHATGLM3, pack_cache=tmp_path)
    assert len(calls) == 3
    assert model.engine is None
    assert not [*tmp_path.iterdir()]
    assert torch.allclose(model(IDS).logits, expected, atol=1e-4)


def test_only_what_is_packed_is_kept(shared_folder: Path, tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        compile_model(CHATGLM3, folder / "build")

    folder = builds.once(shared_folder / "any" / "golden", make) / "build"
    with pytest.raises(ValueError, match="compile it with --target cpu"):
        builds.import_build(folder).load(CHATGLM3, pack_cache=True)
    error = refused(glmc("pack", folder, "--weights", CHATGLM3))
    assert UnknownDeviceError.code in error
    assert "Compile it with --target cpu" in error


def test_the_command_writes_what_load_maps(
    build: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = str(Path(build.__file__).parent)
    command = ["pack", folder, "--weights", str(CHATGLM3), "-o", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "file": str(tmp_path / "f32.safetensors"),
        "bytes": (tmp_path / "f32.safetensors").stat().st_size,
    }
    unread(build, monkeypatch)
    assert build.load(CHATGLM3, pack_cache=tmp_path).packed_in == Path(facts["file"])
