"""Paths, folders, and the hub: the real client against a server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from glmc.frontends.frontend import load_model
from glmc.frontends.source import resolve_source
from glmc.ir.errors import GlmcError
from support.configs import LLAMA

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": json.dumps(LLAMA).encode(),
    "generation_config.json": b'{"eos_token_id": 7}',
    "modeling_llama.py": b"raise SystemExit",
    "model.safetensors": b"x" * 1000,
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as ``hf_hub_download`` asks for."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.asked.append(self.path)
        org, name, _, revision, file = self.path.strip("/").split("/", 4)
        if f"{org}/{name}" == "org/private":
            return self.error(401, "GatedRepo")
        if f"{org}/{name}" != "org/tiny":
            return self.error(404, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self.error(404, "RevisionNotFound")
        if file not in FILES:
            return self.error(404, "EntryNotFound")
        data = FILES[file]
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Tests need no log."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


SCRIPT = """
import sys
from glmc.frontends.hub import Hub
from glmc.frontends.frontend import load_model
from glmc.frontends.source import resolve_source
from glmc.ir.errors import GlmcError
try:
    loaded = load_model(resolve_source(sys.argv[1], Hub(*sys.argv[2:])))
    print(loaded.model.hidden, loaded.model.tokens.eos, loaded.source.folder)
except GlmcError as error:
    print("refused:", error)
"""


def resolve(
    server: ThreadingHTTPServer, home: Path, *arguments: str, **more: str
) -> str:
    """In a process of its own: the client reads its environment when imported."""
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
        **more,
    }
    command = [sys.executable, "-c", SCRIPT, *arguments]
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_hub_id_fetches_the_description_only(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    out = resolve(hub, tmp_path, "org/tiny")
    assert out.startswith("64 (7,)")
    names = {path.rsplit("/", 1)[1] for path in Hub.asked}
    assert names == {
        "config.json",
        "generation_config.json",
        "hf_quant_config.json",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
    }
    folder = Path(out.split(" ", 2)[2])
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
    }
    assert resolve(hub, tmp_path, "org/tiny", COMMIT).startswith("64")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("org/missing",), "no such repository on the hub"),
        (("org/tiny", "v9"), "org/tiny has no revision 'v9'"),
        (("org/private",), "org/private is gated"),
    ],
)
def test_what_the_hub_has_not(
    hub: ThreadingHTTPServer, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    out = resolve(hub, tmp_path, *arguments)
    assert out.startswith("refused:")
    assert expected in out
    assert "\n" not in out


def test_without_a_network(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    assert resolve(hub, tmp_path, "org/tiny").startswith("64")
    Hub.asked.clear()
    offline = {"HF_HUB_OFFLINE": "1"}
    assert resolve(hub, tmp_path, "org/tiny", **offline).startswith("64")
    out = resolve(hub, tmp_path / "empty", "org/tiny", **offline)
    assert "the hub cannot be reached and config.json is not in the cache" in out
    assert not Hub.asked


def test_paths(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    for given in (str(config), str(tmp_path)):
        source = resolve_source(given)
        assert source.config_path == config
        assert source.folder == tmp_path
        assert load_model(source).model.tokens.eos == (7, 8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("nowhere", "neither a file or folder here nor a hub id"),
        ("./org/name", "neither a file"),
        ("/org/name", "neither a file"),
        ("a/b/c", "neither a file"),
        ("org/config.json", "neither a file"),
        ("org/na me", "neither a file"),
        ("", "has no config.json"),
    ],
)
def test_what_is_nothing(
    given: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GlmcError) as error:
        resolve_source(given)
    assert expected in str(error.value)


def test_a_file_that_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("")
    with pytest.raises(GlmcError, match=r"is not a config\.json"):
        resolve_source(str(tmp_path / "model.py"))


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    code = SCRIPT + (
        "heavy = {'torch', 'transformers', 'numpy', 'huggingface_hub', 'safetensors'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
