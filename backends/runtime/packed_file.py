"""Packed weights in a file: written once, read as they are by every later start.

The file is in the safetensors format. Its header is made anew from what is expected and
compared byte for byte, so nothing that a file says is believed: which model, build,
instructions and checkpoint it is of says a key, a hash, in its metadata.
"""

import ctypes
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from .checkpoint import DTYPES, Checkpoint
from .large_pages import LINE, Room
from .packed import PackedWeight, lying
from .recipes import Bind

#: Of the order of bytes in the file; it changes when that does.
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """A weight of the model: its shape and dtype, and how it is packed, if it is."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str | None

    def stored(self) -> tuple[tuple[int, ...], torch.dtype]:
        """Returns shape and dtype of what is stored."""
        if self.kind is None:
            return self.shape, self.dtype
        return lying(self.shape, self.dtype, self.kind)

    def nbytes(self) -> int:
        """Returns the bytes of what is stored."""
        shape, dtype = self.stored()
        return math.prod(shape) * dtype.itemsize


class PackedFile:
    """The file of a model's packed weights, which may not be there yet."""

    def __init__(
        self,
        file: Path,
        key: str,
        entries: Mapping[str, Entry],
        library: ctypes.CDLL,
    ):
        self.file, self.library = file, library
        uneven = sorted(entries, key=lambda path: entries[path].nbytes() % LINE != 0)
        self.entries = {path: entries[path] for path in uneven}
        self.header = self._header(key)
        self.size = len(self.header) + sum(one.nbytes() for one in entries.values())

    def _header(self, key: str) -> bytes:
        said: dict[str, object] = {"__metadata__": {"key": key}}
        end = 0
        for path, entry in self.entries.items():
            (shape, dtype), begin = entry.stored(), end
            end += entry.nbytes()
            said[path] = {
                "dtype": DTYPES[dtype],
                "shape": list(shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(said, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % LINE)
        return len(text).to_bytes(8, "little") + text

    def weights(self) -> Iterator[tuple[str, torch.Tensor]] | None:
        """Returns paths and weights, read from the file. None where there is no such
        file, or with a warning another."""
        if not self.file.exists():
            return None
        fault = self._fault()
        if fault is None:
            room = Room(self.size - len(self.header))
            try:
                room.read(self.file, len(self.header))
                return self._held(room)
            except OSError as error:
                fault = f"cannot be read ({error.strerror})"
        warnings.warn(
            f"{self.file} {fault}; the weights are read and packed again, and take "
            "its place.",
            stacklevel=4,
        )
        return None

    def keep(self, model: torch.nn.Module) -> bool:
        """Writes the weights of a loaded model; a warning says why that fails."""
        why = self._write({path: model.get_parameter(path) for path in self.entries})
        if why:
            warnings.warn(
                f"{self.file} cannot be written ({why}), so the packed weights are not "
                "kept, and the next start packs them again. Give pack_cache= a folder "
                "with room, or leave it out.",
                stacklevel=4,
            )
        return not why

    def _fault(self) -> str | None:
        """Says why the file is not taken; None where it is."""
        try:
            with open(self.file, "rb") as file:
                same = file.read(len(self.header)) == self.header
                size = file.seek(0, os.SEEK_END)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        if not same:
            return "is of other weights, of another build or other instructions"
        if size != self.size:
            return f"is damaged: it has {size} bytes and not {self.size}"
        return None

    def _held(self, room: Room) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields paths and weights of memory that has what follows the header."""
        at = 0
        for path, entry in self.entries.items():
            shape, dtype = entry.stored()
            data = room.at(at, (entry.nbytes(),), torch.uint8)
            at += entry.nbytes()
            if data.data_ptr() % dtype.itemsize:
                data = data.clone()
            found = data.view(dtype).view(shape)
            if entry.kind is not None:
                size = torch.Size(entry.shape)
                found = PackedWeight(size, entry.dtype, found, entry.kind, self.library)
            yield path, found

    def _write(self, weights: Mapping[str, torch.Tensor]) -> str | None:
        """Writes the file, whole or not at all; returns why that was not possible."""
        draft = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(draft, "wb") as out:
                out.write(self.header)
                for path in self.entries:
                    out.write(_bytes(weights[path]))
                out.flush()
                os.fsync(out.fileno())
            os.replace(draft, self.file)
        except OSError as error:
            return error.strerror or str(error)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        return None


def _bytes(weight: torch.Tensor) -> memoryview:
    data = weight.blocks if isinstance(weight, PackedWeight) else weight.detach()
    data = data.contiguous()
    count = data.nbytes
    if not count:
        return memoryview(b"")
    memory = (ctypes.c_char * count).from_address(data.data_ptr())
    memory._keep = data  # type: ignore[attr-defined]
    return memoryview(memory)


def key_of(
    binds: Sequence[Bind], checkpoint: Checkpoint, dtype: torch.dtype, library: str
) -> str:
    """Returns the hash of all that packed weights depend on: the checkpoint's headers,
    the names, sizes and times of its files, what each parameter is made of, the dtype,
    and the library, whose name has a hash of the C++ and its instructions."""
    found = hashlib.sha256(repr((VERSION, str(dtype), library)).encode())
    for told in (
        *checkpoint.files(),
        *sorted(checkpoint.headers.items()),
        *((bind.path, bind.shape, bind.dtype, bind.recipe) for bind in binds),
    ):
        found.update(repr(told).encode() + b"\n")
    return found.hexdigest()
