"""Headers of honest checkpoints, and of hostile ones."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from glmc.backends.runtime.tensor_info import TensorInfo
from glmc.compile.checkpoints import read_headers
from glmc.ir.errors import GlmcError
from support.ranges import examples

TENSORS = {
    "a.weight": torch.zeros(3, 4, dtype=torch.bfloat16),
    "b.weight": torch.zeros(5, dtype=torch.float32),
    "c": torch.zeros(2, 2, dtype=torch.int8),
    "scalar": torch.zeros((), dtype=torch.float16),
    "empty": torch.zeros(0, 3),
}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
DTYPES = {"a.weight": "BF16", "b.weight": "F32", "c": "I8", "scalar": "F16"}
DTYPES["empty"] = "F32"


def refused(folder: Path) -> str:
    with pytest.raises(GlmcError) as error:
        read_headers(folder)
    message = str(error.value)
    assert "\n" not in message
    return message


def write_index(folder: Path, weight_map: Any, name: str = "model.safetensors") -> None:
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / f"{name}.index.json").write_text(text)


def shards(folder: Path) -> dict[str, str]:
    """Two shards with an index; gives the weight map."""
    parts = (dict(list(TENSORS.items())[:2]), dict(list(TENSORS.items())[2:]))
    weight_map = {}
    for n, part in enumerate(parts, 1):
        file = f"model-0000{n}-of-00002.safetensors"
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    write_index(folder, weight_map)
    return weight_map


def check(folder: Path) -> None:
    found = read_headers(folder).tensors
    assert {name: info.shape for name, info in found.items()} == SHAPES
    assert {name: info.dtype for name, info in found.items()} == DTYPES


def test_safetensors(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    check(tmp_path)
    assert read_headers(tmp_path).format == "safetensors"


def test_shards(tmp_path: Path) -> None:
    weight_map = shards(tmp_path)
    check(tmp_path)
    headers = read_headers(tmp_path)
    assert headers.files == tuple(sorted(set(weight_map.values())))
    assert {n: info.file for n, info in headers.tensors.items()} == weight_map


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_torch(tmp_path: Path, new: bool, protocol: int, kind: Any) -> None:
    path = tmp_path / "pytorch_model.bin"
    options = {"_use_new_zipfile_serialization": new, "pickle_protocol": protocol}
    torch.save(kind(TENSORS), path, **options)
    check(tmp_path)
    assert read_headers(tmp_path).format == "torch"


def test_torch_state_dict_with_parameters_and_ties(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 4)
    state = model.state_dict(keep_vars=True)
    state["tied"] = model.weight[1:3]
    torch.save(state, tmp_path / "pytorch_model.bin")
    shapes = {n: i.shape for n, i in read_headers(tmp_path).tensors.items()}
    assert shapes == {"weight": (4, 3), "bias": (4,), "tied": (2, 3)}


def test_an_index_alone_gives_names(tmp_path: Path) -> None:
    write_index(tmp_path, {"a": "pytorch_model-1.bin"}, "pytorch_model.bin")
    headers = read_headers(tmp_path)
    assert headers.index_only
    assert headers.tensors == {"a": TensorInfo(None, None, "pytorch_model-1.bin")}


def test_no_checkpoint(tmp_path: Path) -> None:
    assert "holds no checkpoint" in refused(tmp_path)
    assert "is not a folder" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "file",
    ["../x.safetensors", "/etc/passwd", "a/../../x", "..\\x", "C:x", "a\0b", "..", ""],
)
def test_paths_that_leave_the_folder(tmp_path: Path, file: str) -> None:
    write_index(tmp_path, {"a": file})
    message = refused(tmp_path)
    assert "leaves the folder" in message or "must give a file name" in message


def test_links(tmp_path: Path) -> None:
    """A link out of the folder is refused; the hub's own cache is made of links."""
    outside, folder = tmp_path / "outside.safetensors", tmp_path / "model"
    save_file(TENSORS, outside)
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(outside)
    assert "is a link that leaves the folder" in refused(folder)
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    save_file(TENSORS, cache / "blobs" / "abcd")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abcd")
    check(snapshot)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"weight_map": {}}', "weight_map must be an object"),
        ('{"weight_map": ["a"]}', "weight_map must be an object"),
        ('{"weight_map": {"a": 3}}', "must give a file name for 'a'"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "'a' appears twice"),
        ('{"weight_map": ', "is not a JSON object"),
    ],
)
def test_a_broken_index(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert expected in refused(tmp_path)


def test_index_and_shards_that_disagree(tmp_path: Path) -> None:
    weight_map = shards(tmp_path)
    check(tmp_path)
    write_index(tmp_path, weight_map | {"more": weight_map["c"]})
    assert "holds more, and the file does not" in refused(tmp_path)
    write_index(tmp_path, {n: f for n, f in weight_map.items() if n != "c"})
    assert "holds c, which" in refused(tmp_path)
    write_index(tmp_path, weight_map)
    save_file({"c": TENSORS["c"], **dict(list(TENSORS.items())[:2])}, tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / weight_map["a.weight"])
    assert "one name cannot stand for two tensors" in refused(tmp_path)
    (tmp_path / weight_map["a.weight"]).unlink()
    assert "the checkpoint is incomplete" in refused(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *(("F4", 6), ("F6_E2M3", 9), ("F6_E3M2", 9), ("F8_E8M0", 12)),
        *(("BOOL", 12), ("BF16", 24), ("U32", 48), ("C64", 96)),
    ],
)
def test_bytes_of_dtypes_that_no_torch_writes(
    dtype: str, size: int, tmp_path: Path
) -> None:
    """Twelve elements of each; one byte less is too few."""
    info = {"dtype": dtype, "shape": [3, 4], "data_offsets": [0, size]}
    for data in (size, size - 1):
        text = json.dumps({"a": {**info, "data_offsets": [0, data]}}).encode()
        content = len(text).to_bytes(8, "little") + text + b"\0" * data
        (tmp_path / "model.safetensors").write_bytes(content)
        if data == size:
            assert read_headers(tmp_path).tensors["a"].dtype == dtype
    assert "does not fit its bytes" in refused(tmp_path)


def entry(**more: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **more}


@pytest.mark.parametrize(
    ("header", "data", "expected"),
    [
        ({"a": entry(dtype="F99")}, 8, "unknown dtype"),
        ({"a": entry(dtype=["F32"])}, 8, "unknown dtype"),
        ({"a": entry(shape=[3])}, 8, "does not fit its bytes"),
        ({"a": entry(shape=[-2])}, 8, "has no shape but"),
        ({"a": entry(shape=[2**62, 2**62])}, 8, "does not fit its bytes"),
        ({"a": entry(shape=[True, 2])}, 8, "has no shape but"),
        ({"a": entry(shape=[1] * 99)}, 8, "has no shape but"),
        ({"a": entry(data_offsets=[0])}, 8, "has no data_offsets but"),
        ({"a": entry(data_offsets=[0, 8, 8])}, 8, "has no data_offsets but"),
        ({"a": entry(data_offsets=[8, 0])}, 8, "does not fit its bytes"),
        ({"a": entry(extra=1)}, 8, "is not dtype, shape and data_offsets"),
        ({"a": 3}, 8, "is not dtype, shape and data_offsets"),
        ({"a": entry(), "b": entry()}, 8, "overlap or leave a gap"),
        ({"a": entry(data_offsets=[8, 16])}, 16, "overlap or leave a gap"),
        ({"a": entry()}, 7, "truncated: 1 bytes are missing"),
        ({"a": entry()}, 9, "1 bytes at its end belong to no tensor"),
    ],
)
def test_safetensors_headers_that_lie(
    tmp_path: Path, header: dict[str, Any], data: int, expected: str
) -> None:
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + b"\0" * data
    (tmp_path / "model.safetensors").write_bytes(content)
    assert expected in refused(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"\xff" * 8,
        (2**40).to_bytes(8, "little") + b"{}",
        (10).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{x",
    ],
)
def test_no_safetensors_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path)


class Runs:
    """A pickle that would leave a trace."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_nothing_in_a_pickle_runs(tmp_path: Path, new: bool) -> None:
    trace = tmp_path / "trace"
    evil = {"a": Runs(os.mkdir, str(trace))}
    path = tmp_path / "pytorch_model.bin"
    torch.save(evil, path, _use_new_zipfile_serialization=new)
    assert "code in a checkpoint is not run" in refused(tmp_path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "it would have, and so this test can fail"


@pytest.mark.parametrize(
    "value",
    [
        torch.nn.Linear(2, 2),
        {"a": 3},
        {"a": {"b": torch.zeros(1)}},
        {3: torch.zeros(1)},
        [torch.zeros(1)],
        torch.zeros(1),
        {"a": torch.device("cpu")},
        {"a": "text"},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_state_dict(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "pytorch_model.bin")
    assert "is not a sound torch checkpoint" in refused(tmp_path)


def test_records_must_be_whole(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.bin", tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            new.writestr(item, data[:-1] if item.filename.endswith("data/0") else data)
    assert "record 0 has 23 bytes, expected 24" in refused(tmp_path)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_truncated_anywhere(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=new)
    data = path.read_bytes()
    for keep in (0, 1, 4, 30, len(data) // 2, len(data) - 30, len(data) - 1):
        path.write_bytes(data[:keep])
        refused(tmp_path)


@pytest.mark.parametrize("last", ["a.weight", "empty"])
def test_truncated_within_its_last_storage(tmp_path: Path, last: str) -> None:
    """One without elements is its number of elements alone, eight zeros. torch orders
    storages by their addresses, so that each may be the last."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({last: TENSORS[last]}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert read_headers(tmp_path)
    path.write_bytes(data[:-1])
    assert "truncated" in refused(tmp_path)


BOMBS = {
    "huge string": b"\x80\x02X\xff\xff\xff\x7f",
    "far memo": b"\x80\x02}r\xff\xff\xff\x7fj\xff\xff\xff\x7e.",
    "no end": b"\x80\x02}",
    "empty stack": b"\x80\x02.",
    "stray mark": b"\x80\x02(.",
    "stray append": b"\x80\x02}Na.",
    "unknown opcode": b"\x80\x02\xff.",
    "nested keys": b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
    "instance": b"(ios\nsystem\n.",
    "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "extension": b"\x80\x02\x82\x01.",
    "build on a global": b"\x80\x02ccollections\nOrderedDict\n}b.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_pickles_that_harm_an_ordinary_reader(tmp_path: Path, bomb: str) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", BOMBS[bomb])
    assert "is not a sound torch checkpoint" in refused(tmp_path)


@examples(200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_pickles_are_read_or_refused(tmp_path: Path, data: Any) -> None:
    sound = pickle.dumps({"a": [1, (2.5, None, True)], "b": "x" * 300}, protocol=4)
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sound) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", bytes(damaged))
    refused(tmp_path)


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80"])
def test_names_in_an_archive_that_are_no_text_are_told(
    bad: bytes, tmp_path: Path
) -> None:
    """The flag of an entry says UTF-8, and its name is none."""
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    mark = "\u00e9" * len(bad)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(mark, "x")
    name = mark.encode()
    path.write_bytes(path.read_bytes().replace(name, bad.ljust(len(name), b"x")))
    with pytest.raises(GlmcError, match=r"pytorch_model\.bin is not a sound torch"):
        read_headers(tmp_path)
