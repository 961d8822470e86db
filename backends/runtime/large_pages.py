"""Memory for weights in large pages.

A token reads every weight once. With pages of 4 kB the processor waits for the places
of pages, and not only for their bytes.
"""

import errno
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

#: Bytes that tensors begin at multiples of: a line of the processor's cache.
LINE = 64
#: Bytes that a thread reads of a file at once.
PIECE = 8 << 20


class Room:
    """Memory of so many bytes, nothing of which is used before it is written to.

    It lives as long as any of its tensors; each is a storage of its own.
    """

    def __init__(self, size: int):
        self.memory = _reserved(max(1, size))
        self._used = 0

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Returns a tensor in memory that is not taken yet, with whatever is there;
        where that does not suffice, one of torch's own."""
        found = torch.empty(tuple(shape), dtype=dtype, device="meta")
        begin = -(-self._used // LINE) * LINE
        if not found.nbytes or begin + found.nbytes > len(self.memory):
            return torch.empty(tuple(shape), dtype=dtype)
        self._used = begin + found.nbytes
        return self.at(begin, shape, dtype)

    def read(self, file: Path, begin: int) -> None:
        """Fills it with the bytes of a file from `begin` on. Raises OSError, also where
        there are fewer."""
        whole = memoryview(self.memory)

        def some(at: int) -> None:
            part = whole[at : at + PIECE]
            with open(file, "rb", buffering=0) as opened:
                opened.seek(begin + at)
                while part:
                    count = opened.readinto(part)
                    if not count:
                        raise OSError(errno.EIO, "it became shorter")
                    part = part[count:]

        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(some, range(0, len(whole), PIECE)))

    def at(self, begin: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Returns a tensor at a place, a multiple of its numbers' bytes."""
        count = torch.Size(shape).numel()
        if not count:
            return torch.empty(tuple(shape), dtype=dtype)
        flat = torch.frombuffer(self.memory, dtype=dtype, count=count, offset=begin)
        return flat.view(tuple(shape))


def _reserved(size: int) -> mmap.mmap:
    """Reserves memory, in large pages where the system has them."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system that was built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
