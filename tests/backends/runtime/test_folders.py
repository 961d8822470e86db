"""A folder that `glmc check` refuses is refused by `load`, by the same rules."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc.backends.runtime import checkpoint, folders, loading
from glmc.backends.runtime.causal_lm import CausalLM
from glmc.backends.runtime.faults import WeightsError, brief
from glmc.compile.checkpoints import read_headers
from glmc.ir.errors import GlmcError

Tensors = dict[str, torch.Tensor]
Damage = Callable[[Path, Tensors], None]
FIRST, SECOND = "model-1.safetensors", "model-2.safetensors"


def write_index(folder: Path, weight_map: dict[str, Any]) -> None:
    text = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def halves(tensors: Tensors) -> tuple[Tensors, Tensors]:
    names = list(tensors)
    return {n: tensors[n] for n in names[::2]}, {n: tensors[n] for n in names[1::2]}


def sharded(folder: Path, tensors: Tensors) -> dict[str, Any]:
    """Two sound shards and their index; gives the weight map."""
    weight_map = {}
    for name, part in zip((FIRST, SECOND), halves(tensors), strict=True):
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    write_index(folder, weight_map)
    return weight_map


def in_two_shards(folder: Path, tensors: Tensors) -> None:
    sharded(folder, tensors)
    _, second = halves(tensors)
    other = {"base.embed.weight": torch.randn(50, 32)}
    save_file({**second, **other}, folder / SECOND)


def not_in_the_index(folder: Path, tensors: Tensors) -> None:
    weight_map = sharded(folder, tensors)
    del weight_map["head.weight"]
    write_index(folder, weight_map)


def only_in_the_index(folder: Path, tensors: Tensors) -> None:
    write_index(folder, sharded(folder, tensors) | {"base.extra": FIRST})


def in_the_other_shard(folder: Path, tensors: Tensors) -> None:
    weight_map = sharded(folder, tensors)
    swap = {FIRST: SECOND, SECOND: FIRST}
    write_index(folder, {name: swap[file] for name, file in weight_map.items()})


def twice_in_the_index(folder: Path, tensors: Tensors) -> None:
    rows = json.dumps(sharded(folder, tensors))[1:-1]
    text = f'{{"weight_map": {{{rows}, "head.weight": "{FIRST}"}}}}'
    (folder / "model.safetensors.index.json").write_text(text)


def a_pickle_among_safetensors(folder: Path, tensors: Tensors) -> None:
    weight_map = sharded(folder, tensors)
    torch.save(halves(tensors)[1], folder / "model-2.bin")
    renamed = {SECOND: "model-2.bin"}
    write_index(folder, {n: renamed.get(f, f) for n, f in weight_map.items()})


def a_shard_elsewhere(folder: Path, tensors: Tensors) -> None:
    sharded(folder, tensors)
    outside = folder.parent / "outside.safetensors"
    (folder / SECOND).rename(outside)
    (folder / SECOND).symlink_to(outside)


def the_whole_elsewhere(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder.parent / "whole.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "whole.safetensors")


def an_index_elsewhere(folder: Path, tensors: Tensors) -> None:
    sharded(folder, tensors)
    outside = folder.parent / "index.json"
    (folder / "model.safetensors.index.json").rename(outside)
    (folder / "model.safetensors.index.json").symlink_to(outside)


class Retagged(pickle.Pickler):
    """Says of float32 storages that they are half as wide."""

    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, Storage) else None


class Storage:
    def __init__(self, kind: Any, key: str, count: int) -> None:
        self.pid = ("storage", kind, key, "cpu", count)


class Rebuilt:
    def __init__(self, storage: Storage, tensor: torch.Tensor) -> None:
        self.arguments = (storage, 0, tuple(tensor.shape), tensor.stride())

    def __reduce__(self) -> Any:
        rebuild = torch._utils._rebuild_tensor_v2  # type: ignore[attr-defined]
        return rebuild, (*self.arguments, False, {})


def half_tagged(folder: Path, tensors: Tensors) -> None:
    """A `.bin` whose bytes are float32 and whose pickle says float16."""
    kind = torch.HalfStorage
    state = {
        name: Rebuilt(Storage(kind, str(n), tensor.numel()), tensor)
        for n, (name, tensor) in enumerate(tensors.items())
    }
    stream = io.BytesIO()
    Retagged(stream, 2).dump(state)
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/version", "3\n")
        for n, tensor in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{n}", tensor.numpy().tobytes())


def rezipped(folder: Path, tensors: Tensors, change: Callable[..., None]) -> None:
    stream = io.BytesIO()
    torch.save(tensors, stream)
    with (
        zipfile.ZipFile(stream) as old,
        zipfile.ZipFile(folder / "pytorch_model.bin", "w") as new,
    ):
        for info in old.infolist():
            change(new, info.filename, old.read(info))


def compressed(folder: Path, tensors: Tensors) -> None:
    rezipped(
        folder,
        tensors,
        lambda new, name, data: new.writestr(
            name, data, zipfile.ZIP_DEFLATED if "/data/" in name else None
        ),
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
def two_records_of_a_name(folder: Path, tensors: Tensors) -> None:
    def change(new: zipfile.ZipFile, name: str, data: bytes) -> None:
        new.writestr(name, data)
        if name.endswith("/data/0"):
            new.writestr(name, bytes(len(data)))

    rezipped(folder, tensors, change)


def old_with_more(folder: Path, tensors: Tensors) -> None:
    file = folder / "pytorch_model.bin"
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    with file.open("ab") as end:
        end.write(b"\0" * 8)


def not_only_tensors(folder: Path, tensors: Tensors) -> None:
    torch.save({**tensors, "step": 3}, folder / "pytorch_model.bin")


DAMAGES: dict[str, tuple[Damage, str]] = {
    "in two shards": (in_two_shards, "one name cannot stand for two tensors"),
    "not in the index": (not_in_the_index, "does not list"),
    "only in the index": (only_in_the_index, "and the file does not"),
    "in the other shard": (in_the_other_shard, "and the file does not"),
    "twice in the index": (twice_in_the_index, "appears twice"),
    "a pickle among safetensors": (a_pickle_among_safetensors, "is of another"),
    "a shard elsewhere": (a_shard_elsewhere, "is a link that leaves the folder"),
    "the whole elsewhere": (the_whole_elsewhere, "is a link that leaves the folder"),
    "an index elsewhere": (an_index_elsewhere, "is a link that leaves the folder"),
    "half tagged": (half_tagged, "expected 3200 bytes"),
    "compressed": (compressed, "its archive is compressed"),
    "two records of a name": (two_records_of_a_name, "two records of one name"),
    "old with more": (old_with_more, "8 bytes at its end belong to no storage"),
    "not only tensors": (not_only_tensors, "'step' is a int, not a tensor"),
}


@pytest.fixture
def load(model_class: type[CausalLM], weights: Any) -> Callable[[Path], CausalLM]:
    return lambda folder: loading.load(model_class, weights, folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    return made


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", DAMAGES)
def test_both_refuse(name: str, folder: Path, tensors: Tensors, load: Any) -> None:
    damage, words = DAMAGES[name]
    damage(folder, tensors)
    with pytest.raises(GlmcError, match=words) as checked:
        read_headers(folder)
    with pytest.raises(WeightsError, match=words) as loaded:
        load(folder)
    assert str(checked.value) == str(loaded.value)


def test_what_is_sound_is_loaded(folder: Path, tensors: Tensors, load: Any) -> None:
    sharded(folder, tensors)
    assert torch.equal(load(folder).head, tensors["head.weight"])
    assert set(read_headers(folder).tensors) == set(tensors)


def test_control_without_the_index_the_last_shard_wins(
    folder: Path, tensors: Tensors, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted mistake: nobody asks the index where a tensor lies."""
    in_two_shards(folder, tensors)
    monkeypatch.setattr(folders, "_compare", lambda *told: None)
    assert not torch.equal(load(folder).embed, tensors["base.embed.weight"])


def test_what_torch_reads_is_what_the_header_said(
    folder: Path, tensors: Tensors, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")
    others = {**tensors, "head.weight": tensors["head.weight"].half()}
    monkeypatch.setattr(checkpoint.torch, "load", lambda *a, **k: others)
    with pytest.raises(WeightsError, match="torch reads other tensors in it"):
        load(folder)


@pytest.mark.parametrize("value", ["a\nb", ["a\nb"], "a\u2028b", "a\x1b[2Jb"])
def test_what_a_message_shows_is_of_one_line(value: object) -> None:
    assert brief(value).isprintable()
    assert brief("a b") == "a b"
