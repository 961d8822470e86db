"""Paths, folders, and the hub: the real client against a server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import load_model
from glmc.ir.errors import GlmcError
from support.configs import LLAMA
from support.hub_server import COMMIT, Hub, serving

FILES = {
    "config.json": json.dumps(LLAMA).encode(),
    "generation_config.json": b'{"eos_token_id": 7}',
    "modeling_llama.py": b"raise SystemExit",
    "model.safetensors": b"x" * 10_000,
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(org__tiny=dict(FILES), org__bare={"a.txt": b""}) as server:
        server.gated.add("org/private")
        yield server


SCRIPT = """
import sys
from glmc.frontends.read.hub import Hub
from glmc.frontends.frontend import load_model
from glmc.frontends.build.source import resolve_source
from glmc.ir.errors import GlmcError
try:
    loaded = load_model(resolve_source(sys.argv[1], Hub(*sys.argv[2:])))
    print(loaded.model.hidden, loaded.model.tokens.eos, loaded.source.folder)
except GlmcError as error:
    print("refused:", error)
"""


def resolve(server: Hub, home: Path, *arguments: str, **more: str) -> str:
    """In a process of its own: the client reads its environment when imported."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    run = subprocess.run(
        command,
        env=os.environ | server.env(home) | more,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_hub_id_fetches_the_description_only(hub: Hub, tmp_path: Path) -> None:
    out = resolve(hub, tmp_path, "org/tiny")
    assert out.startswith("64 (7,)")
    expected = {"config.json", "generation_config.json", "hf_quant_config.json"}
    assert hub.names == expected
    folder = Path(out.split(" ", 2)[2])
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
    }
    assert resolve(hub, tmp_path, "org/tiny", COMMIT).startswith("64")


def test_a_mirror(hub: Hub, tmp_path: Path) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert resolve(hub, tmp_path, "org/tiny", "main", hub.url, **nowhere)[:2] == "64"
    assert hub.names >= {"config.json"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("org/missing",), "no such repository on the hub"),
        (("org/bare",), "the hub repository org/bare has no config.json"),
        (("org/tiny", "v9"), "org/tiny has no revision 'v9'"),
        (("org/private",), "org/private is gated"),
    ],
)
def test_what_the_hub_has_not(
    hub: Hub, tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    out = resolve(hub, tmp_path, *arguments)
    assert out.startswith("refused:")
    assert expected in out
    assert "\n" not in out


def test_without_a_network(hub: Hub, tmp_path: Path) -> None:
    assert resolve(hub, tmp_path, "org/tiny").startswith("64")
    hub.log.clear()
    offline = {"HF_HUB_OFFLINE": "1"}
    assert resolve(hub, tmp_path, "org/tiny", **offline).startswith("64")
    out = resolve(hub, tmp_path / "empty", "org/tiny", **offline)
    assert "config.json of org/tiny is not in the cache, and offline mode is on" in out
    assert not hub.log


@pytest.mark.slow  # the client tries again, and again
def test_a_hub_that_cannot_be_reached(hub: Hub, tmp_path: Path) -> None:
    out = resolve(hub, tmp_path, "org/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert "the hub cannot be reached (127.0.0.1 does not answer)" in out
    assert "--endpoint" in out


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
        ("nowhere", "neither a file or folder here, nor a built-in"),
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
