"""Read checkpoints: the tensors of one or several folders.

Which files those are, and what is in them, says `folders`. Shards are memory-mapped and
closed again after a budget of bytes, because the pages that were read count as this
process's memory until then.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from .faults import WeightsError
from .folders import FolderFiles, read_headers
from .recipes import Bind
from .tensor_info import TensorInfo

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
}
NAMED_DTYPES = {name: dtype for dtype, name in DTYPES.items()}
MIN_BUDGET = 48 << 20


class Tensors(Protocol):
    """Tensors that parameters are filled from, by name."""

    headers: dict[str, TensorInfo]

    def read(self, name: str) -> torch.Tensor:
        """Returns a tensor, not to be held beyond the next `spend`."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor, from its header."""

    def spend(self, read_bytes: int) -> None:
        """Counts bytes that were read."""


class Shard(ABC):
    """One file of tensors, opened when first needed."""

    #: Whether an open file is a mapping, which costs nothing to close and open again.
    mapped = True

    def __init__(self, file: Path, headers: Mapping[str, TensorInfo]):
        self.file = file
        self.headers = headers
        self._read: Callable[[str], torch.Tensor] | None = None

    @abstractmethod
    def open(self) -> Callable[[str], torch.Tensor]:
        """Maps the file; returns a function from name to tensor."""

    def read(self, name: str) -> torch.Tensor:
        """Returns a tensor of the file, mapped where the format allows it."""
        if self._read is None:
            self._read = self.open()
        return self._read(name)

    def close(self) -> None:
        """Lets go of the mapping; tensors read before must not be held."""
        self._read = None


class SafetensorsShard(Shard):
    """A `.safetensors` file."""

    def open(self) -> Callable[[str], torch.Tensor]:
        from safetensors import SafetensorError, safe_open

        try:
            opened: Any = safe_open(self.file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise unreadable(self.file, error) from error
        return lambda name: opened.get_tensor(name)


class PickleShard(Shard):
    """A `.bin` file: a pickled dict of tensors, read without running its pickle."""

    def __init__(self, file: Path, headers: Mapping[str, TensorInfo]):
        super().__init__(file, headers)
        # Files from before torch 1.6 are no zip archives: they are read whole.
        self.mapped = _begins_with(file, b"PK")

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
        told = {k: (t.dtype, t.shape) for k, t in self.headers.items()}
        said = {k: (_dtype_name(v.dtype), tuple(v.shape)) for k, v in found.items()}
        if told != said:
            raise unreadable(self.file, ValueError("torch reads other tensors in it"))
        return dict(found)


class Checkpoint:
    """All tensors of some folders by name; of equal names the last folder's counts."""

    def __init__(self, *folders: Path):
        self.headers: dict[str, TensorInfo] = {}
        self._shard_of: dict[str, Shard] = {}
        self._spent = 0
        self._shards: list[Shard] = []
        for folder in folders:
            self._add(folder)
        size = sum(shard.file.stat().st_size for shard in self._shards)
        self.budget = max(MIN_BUDGET, size // 32)

    def _add(self, folder: Path) -> None:
        found = read_headers(FolderFiles(folder))
        if found.index_only:
            raise WeightsError(
                f"all {len(found.files)} shards that the index in {folder} names are "
                f"missing, the first of them {found.files[0]}. Download them into the "
                "same folder.",
                "incomplete",
            )
        for file in found.files:
            held = {n: info for n, info in found.tensors.items() if info.file == file}
            shard = open_shard(folder / file, held)
            self._shards.append(shard)
            self._shard_of |= dict.fromkeys(held, shard)
        self.headers |= found.tensors

    def read(self, name: str) -> torch.Tensor:
        """Returns a tensor, on the CPU and not to be held beyond the next `spend`."""
        return self._shard_of[name].read(name)

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Yields name, size and time of change, in nanoseconds, of each file."""
        for shard in self._shards:
            facts = shard.file.stat()
            yield shard.file.name, facts.st_size, facts.st_mtime_ns

    def file_of(self, name: str) -> Path:
        """Returns the file that holds a tensor."""
        return self._shard_of[name].file

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor, from its header."""
        return self.headers[name].shape or ()

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


def unreadable(file: Path, error: Exception) -> WeightsError:
    """Returns the error for a file that its own format refuses."""
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return WeightsError(
        f"{file} cannot be read: {reason or type(error).__name__}. The file is "
        "truncated, corrupt or of another format; download it again.",
        "damaged",
    )


def open_shard(file: Path, headers: Mapping[str, TensorInfo]) -> Shard:
    """Opens a file of tensors, which are those of `headers`; nothing is read yet."""
    if file.suffix == ".safetensors":
        return SafetensorsShard(file, headers)
    return PickleShard(file, headers)


def _begins_with(file: Path, magic: bytes) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(magic)) == magic
    except OSError:
        return False


def _dtype_name(dtype: torch.dtype) -> str:
    return DTYPES.get(dtype, str(dtype).removeprefix("torch."))


def dtype_of(bind: Bind, dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype that a parameter is loaded in: its own, or the model's."""
    return NAMED_DTYPES[bind.dtype] if bind.dtype else dtype
