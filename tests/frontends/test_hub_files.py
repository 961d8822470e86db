"""Reading remote files by ranges: what is asked for, and answers not believed."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glmc.frontends.read import hub_files
from glmc.frontends.read.hub import Hub
from glmc.frontends.read.hub_files import BLOCK, HubFiles, RangeFile
from glmc.ir.errors import GlmcError
from support.hub_server import only_hub, serving

DATA = random.Random(0).randbytes(5 * BLOCK + 123)


class Remote:
    """A file that counts what is asked of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def __call__(self, begin: int, count: int) -> tuple[bytes, int]:
        self.asked.append((begin, count))
        return self.data[begin : begin + count], len(self.data)


def test_it_reads_as_a_file_does() -> None:
    remote, here = Remote(DATA), io.BytesIO(DATA)
    there = io.BufferedReader(RangeFile(remote), buffer_size=1 << 13)
    choose = random.Random(1)
    for _ in range(200):
        offset, count = choose.randrange(len(DATA) + 99), choose.randrange(2 * BLOCK)
        assert there.seek(offset) == here.seek(offset)
        assert there.read(count) == here.read(count)
        assert there.tell() == here.tell()
    assert there.seek(-22, io.SEEK_END) == here.seek(-22, io.SEEK_END)
    assert there.read() == here.read()
    blocks = [b // BLOCK for b, n in remote.asked for b in range(b, b + n, BLOCK)]
    assert len(blocks) == len(set(blocks)), "no block is asked for twice"


def test_neighbours_come_in_one_request() -> None:
    remote = Remote(DATA)
    file = RangeFile(remote)
    file.seek(BLOCK // 2)
    assert len(file.read(3 * BLOCK)) == 3 * BLOCK
    assert remote.asked == [(0, BLOCK), (BLOCK, 3 * BLOCK)]
    with pytest.raises(OSError, match="before the beginning"):
        file.seek(-1)


def test_a_file_that_changes_meanwhile() -> None:
    remote = Remote(DATA)
    file = RangeFile(remote)
    remote.data += b"more"
    file.seek(2 * BLOCK)
    with pytest.raises(GlmcError, match="size on the hub changed"):
        file.read(10)


def answers(
    monkeypatch: pytest.MonkeyPatch, status: int, said: str, body: Iterator[bytes]
) -> None:
    """Let the client's session give this answer to everything."""

    class Answer:
        status_code = status
        headers = {"Content-Range": said}  # noqa: RUF012
        iter_raw = staticmethod(lambda: body)

        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    session = SimpleNamespace(stream=lambda *_, **__: Answer())
    monkeypatch.setattr("huggingface_hub.get_session", lambda: session)
    monkeypatch.setattr("huggingface_hub.utils.hf_raise_for_status", lambda _: None)
    monkeypatch.setattr("time.sleep", lambda _: None)


def endless() -> Iterator[bytes]:
    """More than anyone asked for."""
    while True:
        yield b"\0" * 65536


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (200, "", "cannot be read in parts"),
        (206, "", "cannot be read in parts"),
        (206, "bytes 5-9/10", "other bytes than were asked for"),
        (206, f"bytes 0-{1 << 60}/{1 << 61}", "other bytes than were asked for"),
        (206, "bytes 0-9/-10", "cannot be read in parts"),
    ],
)
def test_answers_that_are_not_believed(
    monkeypatch: pytest.MonkeyPatch, status: int, said: str, expected: str
) -> None:
    answers(monkeypatch, status, said, endless())
    with pytest.raises(GlmcError, match=expected) as error:
        HubFiles("org/name", Hub()).open("model.safetensors")
    assert "\n" not in str(error.value)


def test_no_more_is_read_than_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 10 * BLOCK
    answers(monkeypatch, 206, f"bytes 0-{BLOCK - 1}/{size}", endless())
    file = HubFiles("org/name", Hub()).open("model.safetensors")
    assert file.read(BLOCK) == b"\0" * BLOCK
    assert file.seek(0, io.SEEK_END) == size


def test_an_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(org__name={"model.safetensors": b""}) as server:
        hub = only_hub(server, tmp_path, monkeypatch)
        files = HubFiles("org/name", Hub(endpoint=hub.url))
        assert files.has("model.safetensors")
        assert not files.has("pytorch_model.bin")
        assert files.open("model.safetensors").read() == b""


def test_control_the_client_is_the_one_that_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answers above reach the reader: a good one is taken as it is."""
    asked: list[Any] = []
    answers(monkeypatch, 206, "bytes 0-3/4", iter([b"ab", b"cd"]))
    monkeypatch.setattr(hub_files, "_patiently", lambda ask: asked.append(1) or ask())
    assert HubFiles("org/name", Hub()).open("x.bin").read() == b"abcd"
    assert asked
