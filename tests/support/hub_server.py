"""A hub on loopback: as much of its protocol as the real client speaks with it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: Larger files lie elsewhere, and `resolve` sends there, as for weights on the hub.
LARGE = 1 << 12

Files = dict[str, bytes]


def folder_files(folder: Path) -> Files:
    """The files of a folder, to be served; with code that must not be asked for."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {"modeling_x.py": b"raise SystemExit", "setup.py": b"raise"}


class Asked(NamedTuple):
    """A request that came in."""

    method: str
    path: str
    range: str | None
    sent: int


@dataclass
class Hub:
    """The server's state; tests change it while it runs."""

    url: str = ""
    repositories: dict[str, Files] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    #: File name to the number of bytes after which its next answers are cut off.
    cuts: dict[str, list[int]] = field(default_factory=dict)
    #: Whether `Range` is understood.
    ranges: bool = True
    #: Headers that answers have in the place of the right ones.
    headers: dict[str, str] = field(default_factory=dict)
    #: File name to what its answers are like: "silent" from the beginning, a "header"
    #: or a "body" that comes a byte at a time.
    slow: dict[str, str] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)
    log: list[Asked] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """The files that were asked for."""
        return {asked.path.rsplit("/", 1)[1] for asked in self.log}

    def sent(self, name: str) -> int:
        """The bytes of a file that went out."""
        return sum(a.sent for a in self.log if a.path.endswith(f"/{name}"))

    def env(self, home: object) -> dict[str, str]:
        """The environment of a process that has this hub, and no other."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }


@contextmanager
def serving(**repositories: Files) -> Iterator[Hub]:
    """A running hub; the keyword ``org__name`` is the repository ``org/name``."""
    hub = Hub()
    hub.repositories = {k.replace("__", "/"): v for k, v in repositories.items()}
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has seen enough goes away, which is no one's mistake."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def send_header(self, keyword: str, value: str) -> None:
        """A header, as the test says."""
        super().send_header(keyword, self.hub.headers.get(keyword, value))

    def _crawl(self, data: bytes) -> None:
        """Send some bytes, one at a time."""
        for at in range(len(data)):
            if self.hub.stopped.wait(0.1):
                return
            self.wfile.write(data[at : at + 1])
            self.wfile.flush()

    def _answer(self, body: bool) -> None:
        how = self.hub.slow.get(self.path.rsplit("/", 1)[-1])
        if how == "silent":
            self.hub.stopped.wait(60)
            return None
        if how == "header":
            return self._crawl(b"HTTP/1.1 200 OK\r\n" + b"X-A: a\r\n" * 1000)
        path = self.path.partition("?")[0].strip("/")
        if found := re.fullmatch(r"api/models/(.+)/tree/[^/]+/(.+)", path):
            return self._list(*found.groups())
        parts = path.split("/", 4)
        cdn = parts[0] == "cdn"
        if len(parts) != 5 or (not cdn and parts[2] != "resolve"):
            return self._error(404, "")
        hub_id = "/".join(parts[1:3] if cdn else parts[:2])
        revision, name = parts[3:]
        files = self.hub.repositories.get(hub_id)
        if hub_id in self.hub.gated:
            return self._error(403, "GatedRepo")
        if files is None:
            return self._error(401, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._error(404, "RevisionNotFound")
        if name not in files:
            return self._error(404, "EntryNotFound")
        data = files[name]
        if not cdn and len(data) > LARGE:
            return self._redirect(f"/cdn/{hub_id}/{COMMIT}/{name}", data)
        self._send(name, data, body)

    def _list(self, hub_id: str, folder: str) -> None:
        """The files of a folder, as the client's list_repo_tree asks for them."""
        files = self.hub.repositories.get(hub_id, {})
        inner = [name for name in files if name.rpartition("/")[0] == folder]
        if not inner:
            return self._error(404, "EntryNotFound")
        rows = [
            {"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40}
            for name in inner
        ]
        self._send(folder, json.dumps(rows).encode(), True)

    def _redirect(self, path: str, data: bytes) -> None:
        self._log(0)
        self.send_response(302)
        self.send_header("Location", f"{self.hub.url}{path}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, name: str, data: bytes, body: bool) -> None:
        begin, end = self._range(len(data))
        if begin >= len(data) and self._asked_range() is not None:
            return self._error(416, "")
        part = data[begin:end]
        partial = len(part) < len(data) or self._asked_range() is not None
        self.send_response(206 if partial and self.hub.ranges else 200)
        if partial and self.hub.ranges:
            last = begin + len(part) - 1
            self.send_header("Content-Range", f"bytes {begin}-{last}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if not body:
            return self._log(0)
        cuts = self.hub.cuts.get(name)
        if cuts:
            part = part[: cuts.pop(0)]
            self.close_connection = True
        self._log(len(part))
        if self.hub.slow.get(name) == "body":
            return self._crawl(part)
        self.wfile.write(part)

    def _range(self, size: int) -> tuple[int, int]:
        asked = self._asked_range()
        if asked is None or not self.hub.ranges:
            return 0, size
        begin, end = asked
        return begin, min(size, end + 1) if end is not None else size

    def _asked_range(self) -> tuple[int, int | None] | None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            return None
        return int(found[1]), int(found[2]) if found[2] else None

    def _error(self, status: int, code: str) -> None:
        self._log(0)
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _log(self, sent: int) -> None:
        path = self.path.partition("?")[0]
        asked = Asked(self.command, path, self.headers.get("Range"), sent)
        self.hub.log.append(asked)

    def log_message(self, *arguments: object) -> None:
        """Tests need no log."""


def only_hub(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Let the client of this process have a cache of its own and wait for nothing."""
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # What has not filled a chunk when the connection is cut is asked for again.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 10)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return hub
