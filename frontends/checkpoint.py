"""What lies in a checkpoint folder, from headers alone: no weights, no torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from glmc.frontends.json_text import MEGABYTE, read_json_object
from glmc.frontends.safetensors_header import read_safetensors
from glmc.frontends.tensor_info import TensorInfo
from glmc.frontends.torch_header import read_torch
from glmc.frontends.wording import listed, show
from glmc.ir.errors import GlmcError

_MAX_INDEX = 256 * MEGABYTE

Format = Literal["safetensors", "torch"]

# In the order in which transformers prefers them.
_LAYOUTS: tuple[tuple[str, Format], ...] = (
    ("model.safetensors", "safetensors"),
    ("model.safetensors.index.json", "safetensors"),
    ("pytorch_model.bin", "torch"),
    ("pytorch_model.bin.index.json", "torch"),
)


@dataclass(frozen=True)
class CheckpointHeaders:
    """The tensors of a checkpoint."""

    folder: Path
    format: Format
    files: tuple[str, ...]
    """The weight files, in name order."""
    tensors: Mapping[str, TensorInfo]
    index_only: bool = False
    """The index is there and its shards are not: dtypes and shapes are unknown."""


def read_headers(folder: Path) -> CheckpointHeaders:
    """The names, dtypes, shapes and files of all tensors in a folder.

    Of an index without any of its shards the names are read.

    Raises:
        GlmcError: when there is no checkpoint, shards are missing, truncated or
            corrupt, the index contradicts them, or a path leaves the folder.
    """
    if not folder.is_dir():
        raise GlmcError(f"{folder} is not a folder with a checkpoint")
    for name, form in _LAYOUTS:
        path = folder / name
        if not path.is_file():
            continue
        if name.endswith(".index.json"):
            return _sharded(folder, path, form)
        refuse_outside(folder, path, name)
        return CheckpointHeaders(folder, form, (name,), _read(path, form))
    names = ", ".join(name for name, _ in _LAYOUTS)
    raise GlmcError(f"{folder} holds no checkpoint: none of {names} is there")


def _read(path: Path, form: Format) -> dict[str, TensorInfo]:
    return read_safetensors(path) if form == "safetensors" else read_torch(path)


def _sharded(folder: Path, index: Path, form: Format) -> CheckpointHeaders:
    files_of = _weight_map(index)
    files = tuple(sorted(set(files_of.values())))
    for name in files:
        _refuse_odd_name(name, index)
    present = [name for name in files if (folder / name).is_file()]
    if not present:
        unknown = {n: TensorInfo(None, None, file) for n, file in files_of.items()}
        return CheckpointHeaders(folder, form, files, unknown, index_only=True)
    missing = sorted(set(files) - set(present))
    if missing:
        raise GlmcError(
            f"{index} names {listed(missing)}, which {_is(missing)} not in the folder;"
            " the download is incomplete"
        )
    tensors: dict[str, TensorInfo] = {}
    for name in files:
        refuse_outside(folder, folder / name, name)
        shard = _read(folder / name, form)
        _compare(index, name, shard, files_of)
        tensors |= shard
    return CheckpointHeaders(folder, form, files, tensors)


def _weight_map(index: Path) -> dict[str, str]:
    entries = read_json_object(index, _MAX_INDEX).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise GlmcError(f"{index}: weight_map must be an object of tensor names")
    for name, file in entries.items():
        if not isinstance(file, str) or not file:
            raise GlmcError(
                f"{index}: weight_map must give a file name for {name!r},"
                f" found {show(file)}"
            )
    return entries


def _compare(
    index: Path, file: str, shard: Iterable[str], files_of: Mapping[str, str]
) -> None:
    """Index and shard must tell the same story."""
    held = set(shard)
    lacking = sorted(n for n, f in files_of.items() if f == file and n not in held)
    if lacking:
        raise GlmcError(
            f"{index} says that {file} holds {listed(lacking)}, and the file does not;"
            " index and shards are not of the same checkpoint"
        )
    elsewhere = sorted(name for name in held if files_of.get(name, file) != file)
    if elsewhere:
        other = files_of[elsewhere[0]]
        raise GlmcError(
            f"{file} holds {listed(elsewhere)}, and so does {other}, where {index} says"
            f" {_is(elsewhere)}; one name cannot stand for two tensors"
        )
    unlisted = sorted(name for name in held if name not in files_of)
    if unlisted:
        raise GlmcError(
            f"{file} holds {listed(unlisted)}, which {index} does not list; index and"
            " shards are not of the same checkpoint"
        )


def _refuse_odd_name(name: str, index: Path) -> None:
    """A shard is a file in the folder, whatever the operating system."""
    pure = PurePosixPath(name)
    odd = "\\" in name or ":" in name or "\0" in name
    if odd or pure.is_absolute() or ".." in pure.parts:
        raise GlmcError(
            f"{index}: weight_map names the file {name!r}, which leaves the folder;"
            " a checkpoint's files lie in its own folder"
        )


def refuse_outside(folder: Path, path: Path, name: str) -> None:
    """Links may point into the folder, or into the hub cache's store beside it."""
    home, target = folder.resolve(), path.resolve()
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in homes):
        raise GlmcError(f"{folder}: {name} is a link that leaves the folder")


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
