"""Read the headers of a checkpoint folder: no weights, no torch.

A folder holds `model.safetensors` or `pytorch_model.bin`, whole or in shards with an
index. `glmc check` reads headers with this too, also those of a repository on the hub.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Protocol, TypeAlias

from .faults import WeightsError, brief
from .safetensors_header import read_safetensors
from .strict_json import MEGABYTE, read_object
from .tensor_info import TensorInfo

_MAX_INDEX = 256 * MEGABYTE

Format: TypeAlias = Literal["safetensors", "torch"]

#: Files to look for, in the order in which transformers prefers them.
LAYOUTS: tuple[tuple[str, Format], ...] = (
    ("model.safetensors", "safetensors"),
    ("model.safetensors.index.json", "safetensors"),
    ("pytorch_model.bin", "torch"),
    ("pytorch_model.bin.index.json", "torch"),
)
LOOKED_FOR = ", ".join(name for name, _ in LAYOUTS)
_ENDINGS = (".safetensors", ".bin")
_POINTER = b"version https://git-lfs"
#: What a LoRA or another adapter is saved as, which belongs to a base model.
ADAPTERS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)


class Files(Protocol):
    """The place of a checkpoint's files: a folder, or a repository on the hub."""

    where: str
    """The folder or repository, for messages."""
    workers: int
    """The number of files that are worth reading at a time."""

    def local(self, name: str) -> Path | None:
        """Returns a small file on this machine; None where there is none of that
        name."""

    def has(self, name: str) -> bool:
        """Returns whether there is a file of this name."""

    def at(self, name: str) -> str:
        """Returns the name of a file in messages."""

    def open(self, name: str) -> IO[bytes]:
        """Opens a file for reading and seeking."""


class FolderFiles:
    """The files of a folder."""

    workers = 1

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise WeightsError(
                f"{folder} is not a folder with a checkpoint; give the folder that the "
                "model was saved in.",
                "absent",
            )
        self.where = str(folder)
        self._folder = folder

    def local(self, name: str) -> Path | None:
        """Returns the file, where there is one; refused where it is a link to
        elsewhere."""
        path = self._folder / name
        if not is_file(path):
            return None
        refuse_outside(self._folder, path, name)
        return path

    def has(self, name: str) -> bool:
        """Tells whether there is a file of this name."""
        return is_file(self._folder / name)

    def at(self, name: str) -> str:
        """Returns its path."""
        return str(self._folder / name)

    def open(self, name: str) -> IO[bytes]:
        """Opens the file, unless it is a link that leaves the folder."""
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


def read_headers(files: Files) -> CheckpointHeaders:
    """Returns the names, dtypes, shapes and files of all tensors of a folder or
    repository.

    Of an index without any of its shards the names are read. Raises WeightsError when
    there is no checkpoint, shards are missing, truncated or corrupt, the index
    contradicts them, or a path leaves the folder.
    """
    for name, form in LAYOUTS:
        if name.endswith(".index.json"):
            index = files.local(name)
            if index is not None:
                return _sharded(files, index, name, form)
        elif files.has(name):
            tensors = _read(files, name, form)
            return CheckpointHeaders(files.where, form, (name,), tensors)
    raise WeightsError(
        f"{files.where} holds no checkpoint: none of {LOOKED_FOR} is there. Give the "
        "folder that the model was saved in.",
        "absent",
    )


def _read(files: Files, name: str, form: Format) -> dict[str, TensorInfo]:
    """Reads the headers of a file, which must have the form that its name says."""
    pickled = PurePosixPath(name).suffix == ".bin"
    if pickled is (form == "safetensors"):
        raise WeightsError(
            f"{files.at(name)} is listed among files of the format {form}, and its "
            "name is of another. Download the index again.",
            "incomplete",
        )
    try:
        with files.open(name) as file:
            pointer = file.read(len(_POINTER)) == _POINTER
            file.seek(0)
            found = {} if pointer else _headers(file, files.at(name), form)
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(
            f"{files.at(name)} cannot be read: {reason}.", "unreadable"
        ) from None
    if pointer:
        raise WeightsError(
            f"{files.at(name)} is a Git LFS pointer, not the weights themselves; run "
            "`git lfs pull` in its folder.",
            "damaged",
        )
    return {key: replace(info, file=name) for key, info in found.items()}


def _headers(file: IO[bytes], path: str, form: Format) -> dict[str, TensorInfo]:
    """Reads headers by their format; the reader of pickles is imported where there are
    some."""
    if form == "safetensors":
        return read_safetensors(file, path)
    from .torch_header import read_torch

    return read_torch(file, path)


def _sharded(files: Files, path: Path, name: str, form: Format) -> CheckpointHeaders:
    from concurrent.futures import ThreadPoolExecutor

    index = files.at(name)
    files_of = weight_map(path, index)
    shards = tuple(sorted(set(files_of.values())))
    with ThreadPoolExecutor(files.workers) as pool:
        there = dict(zip(shards, pool.map(files.has, shards), strict=True))
        present = {shard for shard in shards if there[shard]}
        missing = [shard for shard in shards if shard not in present]
        if not present:
            unknown = {n: TensorInfo(None, None, file) for n, file in files_of.items()}
            return CheckpointHeaders(files.where, form, shards, unknown, True)
        if missing:
            raise WeightsError(
                f"{len(missing)} of the {len(shards)} shards that {index} names are "
                f"missing: {_listed(missing)}; the checkpoint is incomplete. Download "
                "them into the same folder.",
                "incomplete",
            )
        found = pool.map(lambda shard: _read(files, shard, form), shards)
        tensors: dict[str, TensorInfo] = {}
        for shard, held in zip(shards, found, strict=True):
            _compare(index, shard, held, files_of)
            tensors |= held
    return CheckpointHeaders(files.where, form, shards, tensors)


def weight_map(path: Path, index: str) -> dict[str, str]:
    """Reads the index at `path`: tensor to file. Messages call it `index`.

    Raises WeightsError where it has no such table, or names what is not a file of
    weights in its own folder.
    """
    entries = read_object(path, _MAX_INDEX).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise WeightsError(
            f"{index}: weight_map must be an object of tensor names. Download it "
            "again.",
            "index",
        )
    for name, file in entries.items():
        if not isinstance(file, str) or not file:
            raise WeightsError(
                f"{index}: weight_map must give a file name for {brief(name)!r}, found "
                f"{brief(file)}. Download it again.",
                "index",
            )
    for file in sorted(set(entries.values())):
        _refuse_odd_name(file, index)
        _refuse_odd_kind(file, index)
    return entries


def _compare(
    index: str, file: str, shard: Iterable[str], files_of: Mapping[str, str]
) -> None:
    """Refuses an index and a shard that name different tensors."""
    held = set(shard)
    lacking = sorted(n for n, f in files_of.items() if f == file and n not in held)
    if lacking:
        raise WeightsError(
            f"{index} says that {brief(file)} holds {_listed(lacking)}, and the file "
            "does not; index and shards are not of the same checkpoint.",
            "incomplete",
        )
    elsewhere = sorted(name for name in held if files_of.get(name, file) != file)
    if elsewhere:
        other = files_of[elsewhere[0]]
        raise WeightsError(
            f"{brief(file)} holds {_listed(elsewhere)}, and so does {brief(other)}, "
            f"where {index} says {_is(elsewhere)}; one name cannot stand for two "
            "tensors.",
            "incomplete",
        )
    unlisted = sorted(name for name in held if name not in files_of)
    if unlisted:
        raise WeightsError(
            f"{brief(file)} holds {_listed(unlisted)}, which {index} does not list; "
            "index and shards are not of the same checkpoint.",
            "incomplete",
        )


def _refuse_odd_name(name: str, index: str) -> None:
    """Refuses a shard that is no file in the folder, on any operating system."""
    pure = PurePosixPath(name)
    odd = "\\" in name or ":" in name or "\0" in name
    if odd or pure.is_absolute() or ".." in pure.parts:
        raise WeightsError(
            f"{index}: weight_map names the file {brief(name)!r}, which leaves the "
            "folder; a checkpoint's files lie in its own folder.",
            "path",
        )


def _refuse_odd_kind(name: str, index: str) -> None:
    """Refuses files that are not weights: code is never fetched."""
    if PurePosixPath(name).suffix not in _ENDINGS:
        raise WeightsError(
            f"{index}: weight_map names the file {brief(name)!r}, which is not a file "
            f"of weights; their names end in {' or '.join(_ENDINGS)}.",
            "path",
        )


def is_file(path: Path) -> bool:
    """Tells whether there is a file; of names that no file can have there is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def refuse_adapter(files: Files, strict: bool) -> None:
    """Refuses an adapter beside the weights, which other libraries would apply; if not
    `strict`, warns."""
    found = [name for name in ADAPTERS if files.has(name)]
    if not found:
        return
    told = (
        f"{files.where} holds an adapter ({found[0]}) beside the weights, and this "
        "build has no place for it. Merge it into the base model and save that (with "
        "peft: merge_and_unload()), or take it away."
    )
    if strict:
        raise WeightsError(told, "values")
    warnings.warn(told, stacklevel=4)


def refuse_outside(folder: Path, path: Path, name: str) -> None:
    """Refuses links that leave the folder, but for the hub cache's stores around it."""
    home, target = folder.resolve(), path.resolve()
    homes = [home]
    if home.parent.name == "snapshots":  # CACHE/models--ORG--NAME/snapshots/COMMIT
        repository = home.parent.parent
        homes += [repository / "blobs", repository.parent / "blobs"]
    if not any(target.is_relative_to(place) for place in homes):
        raise WeightsError(
            f"{folder}: {name} is a link that leaves the folder. If you made it "
            "yourself, put the file in its place.",
            "path",
        )


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _listed(names: list[str]) -> str:
    """Lists the first few, and counts the rest."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(brief, names[:8])) + more
