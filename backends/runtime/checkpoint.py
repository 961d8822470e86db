"""Reading checkpoints: which files, what is in them, and their tensors.

A folder holds `model.safetensors` or `pytorch_model.bin`, whole or in shards with an
index. Shards are memory-mapped and closed again after a budget of bytes, because the
pages that were read count as this process's memory until then.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from .binding import Header, WeightsError

#: In the order in which transformers looks for them.
WHOLE_OR_INDEX = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
LOOKED_FOR = ", ".join(name for pair in WHOLE_OR_INDEX for name in pair)
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
}
NAMED_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
MIN_BUDGET = 48 << 20


class Shard(ABC):
    """One file of tensors, opened when first needed."""

    #: Whether an open file is a mapping, which costs nothing to close and open again.
    mapped = True

    def __init__(self, file: Path):
        self.file = file
        self._read: Callable[[str], torch.Tensor] | None = None

    @abstractmethod
    def headers(self) -> dict[str, Header]:
        """Shape and dtype of every tensor in the file."""

    @abstractmethod
    def open(self) -> Callable[[str], torch.Tensor]:
        """Maps the file; answers with a function from name to tensor."""

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the file, mapped where the format allows it."""
        if self._read is None:
            self._read = self.open()
        return self._read(name)

    def close(self) -> None:
        """Lets go of the mapping; tensors read before must not be held."""
        self._read = None


class SafetensorsShard(Shard):
    """A `.safetensors` file."""

    def headers(self) -> dict[str, Header]:
        opened = self._open()
        found = {}
        for name in opened.keys():  # noqa: SIM118 - not a mapping
            part = opened.get_slice(name)
            found[name] = Header(tuple(part.get_shape()), part.get_dtype())
        return found

    def open(self) -> Callable[[str], torch.Tensor]:
        opened = self._open()
        return lambda name: opened.get_tensor(name)

    def _open(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self.file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise unreadable(self.file, error) from error


class PickleShard(Shard):
    """A `.bin` file: a pickled dict of tensors, read without running its pickle."""

    def __init__(self, file: Path):
        super().__init__(file)
        # Files from before torch 1.6 are no zip archives: they are read whole.
        self.mapped = _begins_with(file, b"PK")

    def headers(self) -> dict[str, Header]:
        return {
            name: Header(tuple(tensor.shape), _dtype_name(tensor.dtype))
            for name, tensor in self._tensors().items()
        }

    def open(self) -> Callable[[str], torch.Tensor]:
        tensors = self._tensors()
        return lambda name: tensors[name]

    def _tensors(self) -> Mapping[str, torch.Tensor]:
        try:
            found = torch.load(
                self.file, map_location="cpu", weights_only=True, mmap=self.mapped
            )
        except Exception as error:  # torch.load has no exception of its own
            raise unreadable(self.file, error) from error
        if not isinstance(found, dict):
            raise WeightsError(
                f"{self.file} holds a {type(found).__name__}, not a dict of tensors; "
                "save the model's state_dict() there."
            )
        return {k: v for k, v in found.items() if isinstance(v, torch.Tensor)}


class Checkpoint:
    """All tensors of some folders by name; of equal names the last folder's counts."""

    def __init__(self, *folders: Path):
        self.headers: dict[str, Header] = {}
        self._shard_of: dict[str, Shard] = {}
        self._spent = 0
        self._shards = [
            open_shard(f) for folder in folders for f in shard_files(folder)
        ]
        for shard in self._shards:
            headers = shard.headers()
            self.headers |= headers
            self._shard_of |= dict.fromkeys(headers, shard)
        size = sum(shard.file.stat().st_size for shard in self._shards)
        self.budget = max(MIN_BUDGET, size // 32)

    def read(self, name: str) -> torch.Tensor:
        """A tensor, on the CPU and not to be held beyond the next `spend`."""
        return self._shard_of[name].read(name)

    def spend(self, read_bytes: int) -> None:
        """Counts bytes that were read; closes the mappings when they are too many."""
        self._spent += read_bytes
        if self._spent >= self.budget:
            self._spent = 0
            for shard in self._shards:
                if shard.mapped:
                    shard.close()

    def close(self) -> None:
        """Lets go of all files."""
        for shard in self._shards:
            shard.close()


def shard_files(folder: Path) -> list[Path]:
    """The files that hold a folder's tensors; all of them exist."""
    for whole, index in WHOLE_OR_INDEX:
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _indexed_files(folder, folder / index)
    raise WeightsError(
        f"{folder} holds no weights: there is none of {LOOKED_FOR}. Give the folder "
        "that the model was saved in."
    )


def unreadable(file: Path, error: Exception) -> WeightsError:
    """The sentence for a file that its own format refuses."""
    if _begins_with(file, b"version https://git-lfs"):
        return WeightsError(
            f"{file} is a Git LFS pointer, not the weights themselves; run "
            "`git lfs pull` in its folder."
        )
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return WeightsError(
        f"{file} cannot be read: {reason or type(error).__name__}. The file is "
        "truncated, corrupt or of another format; download it again."
    )


def _begins_with(file: Path, magic: bytes) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(magic)) == magic
    except OSError:
        return False


def open_shard(file: Path) -> Shard:
    """A file of tensors, by its format; nothing is read yet."""
    if file.suffix == ".safetensors":
        return SafetensorsShard(file)
    return PickleShard(file)


def _indexed_files(folder: Path, index: Path) -> list[Path]:
    shards = indexed_shards(index)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise WeightsError(
            f"{len(missing)} of the {len(shards)} shards that {index} names are "
            f"missing: {', '.join(missing[:8])}{', …' if len(missing) > 8 else ''}. "
            "Download them into the same folder."
        )
    return [folder / shard for shard in shards]


def indexed_shards(index: Path) -> list[str]:
    """The shards that an index names, all of them files of its folder."""
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{index} is not an index of shards ({type(error).__name__}: {error}); it "
            'needs {"weight_map": {tensor name: file name}}. Download it again.'
        ) from error
    for shard in shards:
        if not isinstance(shard, str) or _leaves_folder(shard):
            raise WeightsError(
                f"{index} sends to {shard!r}, which is not a file of its folder; such "
                "an index is broken or hostile and is not followed."
            )
    return shards


def _leaves_folder(name: str) -> bool:
    """By the name alone: in the hub's cache the files are links to elsewhere."""
    return any(
        path.is_absolute() or path.drive or ".." in path.parts or not path.parts
        for path in (PurePosixPath(name), PureWindowsPath(name))
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return DTYPES.get(dtype, str(dtype).removeprefix("torch."))
