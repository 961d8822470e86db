"""What lies in a checkpoint folder, from headers alone: no weights, no torch."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Protocol

from glmc.frontends.hub import Hub, fetch, is_hub_id, is_offline
from glmc.frontends.json_text import MEGABYTE, read_json_object
from glmc.frontends.safetensors_header import read_safetensors
from glmc.frontends.tensor_info import TensorInfo
from glmc.frontends.wording import listed, show
from glmc.ir.errors import (
    FileUnreadableError,
    HubUnreachableError,
    IncompleteCheckpointError,
    NoCheckpointError,
    UnsafePathError,
    WeightMapError,
)

_MAX_INDEX = 256 * MEGABYTE

Format = Literal["safetensors", "torch"]

# In the order in which transformers prefers them.
_LAYOUTS: tuple[tuple[str, Format], ...] = (
    ("model.safetensors", "safetensors"),
    ("model.safetensors.index.json", "safetensors"),
    ("pytorch_model.bin", "torch"),
    ("pytorch_model.bin.index.json", "torch"),
)
_ENDINGS = (".safetensors", ".bin")


class Files(Protocol):
    """Where a checkpoint's files lie: a folder, or a repository on the hub."""

    where: str
    """The folder or repository, for messages."""
    workers: int
    """How many files are worth reading at a time."""

    def local(self, name: str) -> Path | None:
        """A small file on this machine; None where there is none of that name."""

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def at(self, name: str) -> str:
        """How messages call a file."""

    def open(self, name: str) -> IO[bytes]:
        """A file for reading and seeking."""


class FolderFiles:
    """The files of a folder."""

    workers = 1

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise NoCheckpointError(f"{folder} is not a folder with a checkpoint")
        self.where = str(folder)
        self._folder = folder

    def local(self, name: str) -> Path | None:
        """The file, where there is one."""
        path = self._folder / name
        return path if path.is_file() else None

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return (self._folder / name).is_file()

    def at(self, name: str) -> str:
        """Its path."""
        return str(self._folder / name)

    def open(self, name: str) -> IO[bytes]:
        """The file, unless it is a link that leaves the folder."""
        refuse_outside(self._folder, self._folder / name, name)
        return (self._folder / name).open("rb")


@dataclass(frozen=True)
class CheckpointHeaders:
    """The tensors of a checkpoint."""

    where: str
    """The folder or the hub id."""
    format: Format
    files: tuple[str, ...]
    """The weight files, in name order."""
    tensors: Mapping[str, TensorInfo]
    index_only: bool = False
    """The index is there and its shards are not: dtypes and shapes are unknown."""


def checkpoint_files(given: str, hub: Hub) -> Files:
    """The files of a folder, or of a hub id that is no folder here.

    Offline a hub id stands for what the cache holds of it.

    Raises:
        GlmcError: when there is no such folder and no such repository.
    """
    folder = Path(given).expanduser()
    if folder.is_dir() or not is_hub_id(given):
        return FolderFiles(folder)
    if not is_offline(hub):
        from glmc.frontends.hub_files import HubFiles

        return HubFiles(given, hub)
    for name, _ in _LAYOUTS:
        cached = fetch(given, name, hub)
        if cached is not None:
            return FolderFiles(cached.parent)
    raise HubUnreachableError(
        f"no weights of {given} are in the cache, and offline mode is on; run the same"
        " command once without --offline and HF_HUB_OFFLINE"
    )


def read_headers(files: Files | Path) -> CheckpointHeaders:
    """The names, dtypes, shapes and files of all tensors of a folder or repository.

    Of an index without any of its shards the names are read.

    Raises:
        GlmcError: when there is no checkpoint, shards are missing, truncated or
            corrupt, the index contradicts them, or a path leaves the folder.
    """
    files = FolderFiles(files) if isinstance(files, Path) else files
    for name, form in _LAYOUTS:
        if name.endswith(".index.json"):
            index = files.local(name)
            if index is not None:
                return _sharded(files, index, name, form)
        elif files.has(name):
            tensors = _read(files, name, form)
            return CheckpointHeaders(files.where, form, (name,), tensors)
    names = ", ".join(name for name, _ in _LAYOUTS)
    raise NoCheckpointError(
        f"{files.where} holds no checkpoint: none of {names} is there"
    )


def _read(files: Files, name: str, form: Format) -> dict[str, TensorInfo]:
    try:
        with files.open(name) as file:
            return _reader(form)(file, files.at(name))
    except OSError as error:
        reason = error.strerror or error
        raise FileUnreadableError(
            f"{files.at(name)} cannot be read: {reason}"
        ) from None


def _reader(form: Format) -> Callable[[IO[bytes], str], dict[str, TensorInfo]]:
    """What reads headers; that of pickles is imported where there are some."""
    if form == "safetensors":
        return read_safetensors
    from glmc.frontends.torch_header import read_torch

    return read_torch


def _sharded(files: Files, path: Path, name: str, form: Format) -> CheckpointHeaders:
    from concurrent.futures import ThreadPoolExecutor

    index = files.at(name)
    files_of = _weight_map(path, index)
    shards = tuple(sorted(set(files_of.values())))
    for shard in shards:
        _refuse_odd_name(shard, index)
        _refuse_odd_kind(shard, index)
    with ThreadPoolExecutor(files.workers) as pool:
        there = dict(zip(shards, pool.map(files.has, shards), strict=True))
        present = {shard for shard in shards if there[shard]}
        missing = [shard for shard in shards if shard not in present]
        if not present:
            unknown = {n: TensorInfo(None, None, file) for n, file in files_of.items()}
            return CheckpointHeaders(files.where, form, shards, unknown, True)
        if missing:
            raise IncompleteCheckpointError(
                f"{index} names {listed(missing)}, which {_is(missing)} not beside it;"
                " the checkpoint is incomplete"
            )
        found = pool.map(lambda shard: _read(files, shard, form), shards)
        tensors: dict[str, TensorInfo] = {}
        for shard, held in zip(shards, found, strict=True):
            _compare(index, shard, held, files_of)
            tensors |= held
    return CheckpointHeaders(files.where, form, shards, tensors)


def _weight_map(path: Path, index: str) -> dict[str, str]:
    entries = read_json_object(path, _MAX_INDEX).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise WeightMapError(f"{index}: weight_map must be an object of tensor names")
    for name, file in entries.items():
        if not isinstance(file, str) or not file:
            raise WeightMapError(
                f"{index}: weight_map must give a file name for {name!r},"
                f" found {show(file)}"
            )
    return entries


def _compare(
    index: str, file: str, shard: Iterable[str], files_of: Mapping[str, str]
) -> None:
    """Index and shard must tell the same story."""
    held = set(shard)
    lacking = sorted(n for n, f in files_of.items() if f == file and n not in held)
    if lacking:
        raise IncompleteCheckpointError(
            f"{index} says that {file} holds {listed(lacking)}, and the file does not;"
            " index and shards are not of the same checkpoint"
        )
    elsewhere = sorted(name for name in held if files_of.get(name, file) != file)
    if elsewhere:
        other = files_of[elsewhere[0]]
        raise IncompleteCheckpointError(
            f"{file} holds {listed(elsewhere)}, and so does {other}, where {index} says"
            f" {_is(elsewhere)}; one name cannot stand for two tensors"
        )
    unlisted = sorted(name for name in held if name not in files_of)
    if unlisted:
        raise IncompleteCheckpointError(
            f"{file} holds {listed(unlisted)}, which {index} does not list; index and"
            " shards are not of the same checkpoint"
        )


def _refuse_odd_name(name: str, index: str) -> None:
    """A shard is a file in the folder, whatever the operating system."""
    pure = PurePosixPath(name)
    odd = "\\" in name or ":" in name or "\0" in name
    if odd or pure.is_absolute() or ".." in pure.parts:
        raise UnsafePathError(
            f"{index}: weight_map names the file {name!r}, which leaves the folder;"
            " a checkpoint's files lie in its own folder"
        )


def _refuse_odd_kind(name: str, index: str) -> None:
    """Code is never fetched, whatever an index calls it."""
    if PurePosixPath(name).suffix not in _ENDINGS:
        raise UnsafePathError(
            f"{index}: weight_map names the file {name!r}, which is not a file of"
            f" weights; their names end in {' or '.join(_ENDINGS)}"
        )


def refuse_outside(folder: Path, path: Path, name: str) -> None:
    """Links may point into the folder, or into the hub cache's stores around it."""
    home, target = folder.resolve(), path.resolve()
    homes = [home]
    if home.parent.name == "snapshots":  # CACHE/models--ORG--NAME/snapshots/COMMIT
        repository = home.parent.parent
        homes += [repository / "blobs", repository.parent / "blobs"]
    if not any(target.is_relative_to(place) for place in homes):
        raise UnsafePathError(f"{folder}: {name} is a link that leaves the folder")


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
