"""A checkpoint on the hub: its headers by range requests, its weights left there."""

import io
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

from glmc.backends.runtime.patience import AnswerError, patiently
from glmc.frontends.read.hub import Hub, fetch, speaking
from glmc.ir.errors import GlmcError, HubAnswerError

BLOCK = 1 << 17
"""Bytes of the pieces that are asked for: most headers fit into one."""
_ATTEMPTS = 3
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)

Fetch = Callable[[int, int], tuple[bytes, int]]
"""From first byte and number to the bytes, fewer at the end, and the file's size."""


class HubFiles:
    """The weight files of a repository, of the commit that was met first."""

    workers = 8
    """Headers that are read at a time; the time goes by in waiting."""

    def __init__(self, hub_id: str, hub: Hub) -> None:
        self.where = hub_id
        self._hub = hub

    def local(self, name: str) -> Path | None:
        """Fetch a small file whole into the hub's cache; None: there is none."""
        found = fetch(self.where, name, self._hub)
        if found is not None:
            self._hub = _pinned(self._hub, found)
        return found

    def has(self, name: str) -> bool:
        """Tell whether the repository has a file of this name."""
        from huggingface_hub import get_hf_file_metadata
        from huggingface_hub.errors import EntryNotFoundError

        with speaking(self.where, name, self._hub):
            try:
                ask = partial(
                    get_hf_file_metadata,
                    self._url(name),
                    endpoint=self._hub.endpoint,
                )
                patiently(ask, self._hub.timeout)
            except EntryNotFoundError:
                return False
        return True

    def at(self, name: str) -> str:
        """Return the name of a file in messages."""
        return f"{self.where}/{name}"

    def open(self, name: str) -> IO[bytes]:
        """Open a file that is fetched by ranges, as far as it is read.

        Raises:
            GlmcError: when the hub does not give it; reading may raise it, too.
        """
        url = self._url(name)

        def ranged(begin: int, count: int) -> tuple[bytes, int]:
            with speaking(self.where, name, self._hub):
                answer = _patiently(lambda: self._range(url, begin, count))
            return answer

        return io.BufferedReader(RangeFile(ranged), buffer_size=1 << 13)

    def _range(self, url: str, begin: int, count: int) -> tuple[bytes, int]:
        ask = partial(_get_range, url, begin, count)
        return patiently(ask, self._hub.timeout)

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        revision, endpoint = self._hub.revision, self._hub.endpoint
        return hf_hub_url(self.where, name, revision=revision, endpoint=endpoint)


def _pinned(hub: Hub, cached: Path) -> Hub:
    """Pin the hub to the commit of a cached file, whose folder is named after it."""
    return replace(hub, revision=cached.parent.name)


def _patiently(ask: Callable[[], tuple[bytes, int]]) -> tuple[bytes, int]:
    """Return the answer, or raise the error of the last attempt: connections get
    cut."""
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(1, _ATTEMPTS):
        try:
            return ask()
        except (GlmcError, HfHubHTTPError, AnswerError, TimeoutError):
            raise  # an answer, if not the one that was hoped for
        except Exception:  # whatever errors the client's HTTP library has
            time.sleep(attempt / 2)
    return ask()


def _get_range(url: str, begin: int, count: int) -> tuple[bytes, int]:
    """Fetch some bytes of a file, and its size; believe no more than was asked for."""
    from huggingface_hub import constants, get_session

    # Public, but the package's own stubs do not re-export them.
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
    )

    headers = build_hf_headers() | {
        "Range": f"bytes={begin}-{begin + count - 1}",
        "Accept-Encoding": "identity",
    }
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as answer:
        if answer.status_code == 416:  # beyond the end, as everything in an empty file
            return b"", 0
        hf_raise_for_status(answer)
        said = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status_code != 206 or said is None:
            raise HubAnswerError(
                f"{url} cannot be read in parts, as this server serves whole files"
                " only; download the checkpoint and check its folder"
            )
        first, last, size = map(int, said.groups())
        wanted = min(count, size - begin)
        if first != begin or last - first + 1 != wanted:
            raise HubAnswerError(
                f"{url}: the server sent other bytes than were asked for"
            )
        data = bytearray()
        for piece in answer.iter_raw():
            data += piece
            if len(data) >= wanted:
                break
    if len(data) < wanted:
        raise ConnectionError(f"the connection was cut after {len(data)} bytes")
    return bytes(data[:wanted]), size


class RangeFile(io.RawIOBase):
    """A remote file to read and seek in; each block is asked for once."""

    def __init__(self, ranged: Fetch) -> None:
        self._ranged = ranged
        self._blocks: dict[int, bytes] = {}
        self._at = 0
        self._blocks[0], self._size = ranged(0, BLOCK)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, as in every file."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
        if start[whence] + offset < 0:
            raise OSError("a seek to before the beginning")
        self._at = start[whence] + offset
        return self._at

    # BufferedReader, the only caller, hands over a memoryview.
    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into a buffer, as from every file."""
        count = max(0, min(len(buffer), self._size - self._at))
        if not count:
            return 0
        first, last = self._at // BLOCK, (self._at + count - 1) // BLOCK
        self._ask(first, last)
        held = b"".join(self._blocks[block] for block in range(first, last + 1))
        begin = self._at - first * BLOCK
        buffer[:count] = held[begin : begin + count]
        self._at += count
        return count

    def _ask(self, first: int, last: int) -> None:
        """Fetch the blocks that are not here, neighbours in one request."""
        absent = [n for n in range(first, last + 1) if n not in self._blocks]
        if not absent:
            return
        begin, end = absent[0] * BLOCK, (absent[-1] + 1) * BLOCK
        data, size = self._ranged(begin, end - begin)
        if size != self._size:
            raise HubAnswerError(
                "the file's size on the hub changed while it was read; check again"
            )
        for block in range(absent[0], absent[-1] + 1):
            at = block * BLOCK - begin
            self._blocks[block] = data[at : at + BLOCK]
