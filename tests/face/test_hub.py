"""A hub id wherever a folder may stand: the real client, a server on loopback."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glmc import compile_model
from glmc.command.cli import main
from support import GOLDEN, builds
from support.hub_server import COMMIT, Hub, folder_files, only_hub, serving
from support.variants import BY_NAME, Tiny, Variant

CHATGLM = GOLDEN / "chatglm3"
PROMPT = ["--prompt-ids", "5,6,7", "--max-new-tokens", "3", "--device", "cpu", "--json"]


@pytest.fixture(scope="module")
def sharded(
    tiny: Callable[[Variant], Tiny], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of transformers' glm in two shards, with an index."""
    whole = tiny(BY_NAME["glm-partial"]).checkpoint
    return split(whole, tmp_path_factory.mktemp("hub") / "glm", "model", "safetensors")


def split(whole: Path, folder: Path, stem: str, ending: str) -> Path:
    """Write a checkpoint anew, in two shards."""
    shutil.copytree(whole, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for n, part in enumerate((names[:9], names[9:]), 1):
        file = f"{stem}-0000{n}-of-00002.{ending}"
        held = {name: tensors[name] for name in part}
        if ending == "bin":
            torch.save(held, folder / file)
        else:
            save_file(held, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def hub(
    sharded: Path,
    tiny: Callable[[Variant], Tiny],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Hub]:
    whole = tiny(BY_NAME["glm-partial"]).checkpoint
    bins = split(whole, tmp_path / "bins", "pytorch_model", "bin")
    served = {"org__glm": sharded, "org__bins": bins, "org__golden": CHATGLM}
    files = {name: folder_files(folder) for name, folder in served.items()}
    with serving(**files) as server:
        yield only_hub(server, tmp_path / "cache", monkeypatch)
        assert not any(name.endswith(".py") for name in server.names)


@pytest.fixture
def run(hub: Hub, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `glmc` with this hub; its output, or the message of its refusal."""

    def call(*arguments: object, code: int = 0) -> str:
        words = [*map(str, arguments), "--endpoint", hub.url]
        assert main(words) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return out if code == 0 else str(err)

    return call


@pytest.fixture
def build(sharded: Path, compiled: Callable[[Path], Path]) -> Path:
    return compiled(sharded)


def test_from_hub_id_to_tokens(
    run: Callable[..., str], hub: Hub, build: Path, sharded: Path, tmp_path: Path
) -> None:
    run("compile", "org/glm", "-o", tmp_path / "build")
    assert not any(name.endswith(".safetensors") for name in hub.names)
    same = (tmp_path / "build" / "model.py").read_text()
    assert same == (build / "model.py").read_text()
    new = run("run", tmp_path / "build", "--weights", "org/glm", *PROMPT)
    expected = run("run", build, "--weights", sharded, *PROMPT)
    assert json.loads(new) == json.loads(expected)
    hub.log.clear()
    offline = run("run", build, "--weights", "org/glm", "--offline", *PROMPT)
    assert json.loads(offline) == json.loads(expected)
    assert not hub.log


def test_inspect_takes_a_hub_id(run: Callable[..., str]) -> None:
    facts = json.loads(run("inspect", "org/glm", "--json", "--revision", COMMIT))
    assert (facts["model"], facts["layers"]) == ("glm", 3)


def test_what_lies_beside_a_config_is_fetched_with_it(
    run: Callable[..., str], hub: Hub
) -> None:
    """It says where an answer ends, and how the weights of some models are stored."""
    hub.repositories["org/glm"]["generation_config.json"] = b'{"eos_token_id": 7}'
    run("inspect", "org/glm")
    got = {asked.path.rpartition("/")[2] for asked in hub.log}
    assert {"config.json", "generation_config.json", "hf_quant_config.json"} <= got


def test_a_spec_is_drafted_from_remote_headers(
    run: Callable[..., str], hub: Hub
) -> None:
    assert "extends: glm\n" in run("specs", "new", "org/glm", "--revision", COMMIT)


@pytest.mark.parametrize("name", ["org/glm", "org/bins"])
def test_check_reads_remote_headers(
    run: Callable[..., str], hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The weights are tiny, so blocks must be tinier to tell a header from a file.
    monkeypatch.setattr("glmc.frontends.read.hub_files.BLOCK", 1 << 9)
    facts = json.loads(run("check", name, "--json"))
    assert facts["ok"]
    assert facts["shapes_checked"]
    shards = {k: v for k, v in hub.repositories[name].items() if "-of-00002" in k}
    assert len(shards) == 2
    for shard, data in shards.items():
        assert 0 < hub.sent(shard) < len(data) / 4
    assert all(a.range for a in hub.log if a.method == "GET" and a.path[:4] == "/cdn")


def test_check_compares_a_build_with_a_repository(
    run: Callable[..., str], build: Path, hub: Hub
) -> None:
    assert "0 missing" in run("check", build, "--weights", "org/glm")
    told = run("check", build, "--weights", "org/golden", code=2)
    assert "org/golden is not a checkpoint of" in told
    # The hub's cache now has the index, and offline its names are all there is.
    words = run("check", build, "--weights", "org/glm", "--offline", "--json")
    assert not json.loads(words)["shapes_checked"]
    told = run("check", build, "--weights", "org/bins", "--offline", code=2)
    assert "no weights of org/bins are in the cache" in told


def test_a_cut_connection_while_headers_are_read(
    run: Callable[..., str], hub: Hub
) -> None:
    shard = "model-00001-of-00002.safetensors"
    hub.cuts[shard] = [100, 200]
    run("check", "org/glm")
    hub.cuts[shard] = [100] * 9
    told = run("check", "org/glm", code=2)
    assert f"org/glm at revision {COMMIT}: fetching {shard} failed" in told


def test_a_server_without_ranges(run: Callable[..., str], hub: Hub) -> None:
    hub.ranges = False
    told = run("check", "org/glm", code=2)
    assert "cannot be read in parts" in told
    assert "download the checkpoint" in told


def load(build: Path, name: str, hub: Hub, **options: Any) -> Any:
    module = builds.import_build(build)
    options = {"endpoint": hub.url, "dtype": "float32"} | options
    return module.load(name, **options)


def test_a_cut_download_goes_on_where_it_stopped(build: Path, hub: Hub) -> None:
    shard = "model-00001-of-00002.safetensors"
    size = len(hub.repositories["org/glm"][shard])
    hub.cuts[shard] = [40 << 10, 40 << 10]
    model = load(build, "org/glm", hub)
    assert torch.isfinite(model(torch.tensor([[1, 2]])).logits).all()
    asked = [a.range for a in hub.log if a.path.endswith(shard) and a.sent]
    assert asked[0] is None
    assert all(text and text != "bytes=0-" for text in asked[1:])
    assert size <= hub.sent(shard) < size + (8 << 10)


def test_a_connection_that_stays_cut_is_one_sentence(
    build: Path, hub: Hub, tmp_path: Path
) -> None:
    shard = "model-00002-of-00002.safetensors"
    hub.cuts[shard] = [40 << 10, *[0] * 50]
    with pytest.raises(ValueError, match="does not give its") as error:
        load(build, "org/glm", hub)
    assert "goes on from there" in str(error.value)
    assert "\n" not in str(error.value)
    hub.cuts.clear()
    load(build, "org/glm", hub)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("org/nothing", {}, "no folder here and no repository on the hub"),
        ("org/glm", {"revision": "v9"}, "org/glm has no revision 'v9'"),
        ("org/gated", {}, "org/gated is gated: accept its terms"),
        ("org/empty", {}, r"org/empty has no weights \(any of model\.safetensors"),
        ("org/torn", {}, r"has no model-00002-of-00002\.safetensors; check"),
        ("org/glm", {"offline": True}, "not in the cache with weights .* once without"),
        ("org/glm", {"endpoint": "http://127.0.0.1:9"}, "hub cannot be reached"),
        ("org/code", {}, r"org/code/.*'payload\.py', which is not a file of weights"),
    ],
)
def test_what_the_hub_has_not(
    build: Path, hub: Hub, name: str, options: dict[str, Any], expected: str
) -> None:
    files = hub.repositories["org/glm"]
    hub.gated.add("org/gated")
    hub.repositories["org/empty"] = {"config.json": b"{}"}
    hub.repositories["org/torn"] = {k: v for k, v in files.items() if "2-of" not in k}
    index = json.dumps({"weight_map": {"w": "payload.py"}}).encode()
    hub.repositories["org/code"] = {"model.safetensors.index.json": index}
    with pytest.raises(ValueError, match=expected) as error:
        load(build, name, hub, **options)
    assert "\n" not in str(error.value)


def test_a_remote_index_that_names_code(run: Callable[..., str], hub: Hub) -> None:
    files = hub.repositories["org/glm"]
    index = json.dumps({"weight_map": {"w": "payload.py"}}).encode()
    hub.repositories["org/code"] = files | {"model.safetensors.index.json": index}
    told = run("check", "org/code", code=2)
    assert "'payload.py', which is not a file of weights" in told


def test_tokenizers_come_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    module = builds.import_build(compile_model("chatglm3-6b", tmp_path / "build"))
    with pytest.raises(ValueError, match="holds no tokenizer"):
        module.load_tokenizer("org/glm", endpoint=hub.url)
    assert "ice_text.model" in hub.names
    assert not any(name.endswith(".safetensors") for name in hub.names)


OUTSIDE = ("../../../outside", "..", "/outside", "a\\outside", "x" * 300, "C:x")


@pytest.mark.parametrize("header", ["ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("value", OUTSIDE)
def test_a_mirror_names_no_file_outside_the_cache(
    header: str,
    value: str,
    hub: Hub,
    run: Callable[..., str],
    build: Path,
    tmp_path: Path,
) -> None:
    """The client writes to blobs/ETAG and snapshots/COMMIT, whatever these are."""
    hub.headers = {header: f'"{value}"' if header == "ETag" else value}
    said = run("compile", "org/glm", "-o", tmp_path / "out", code=2)
    assert "can be the name of no file in a cache" in said
    loaded = builds.import_build(build)
    with pytest.raises(ValueError, match="can be the name of no file in a cache"):
        loaded.load("org/glm", endpoint=hub.url)
    assert not list(tmp_path.rglob("*outside*"))
    assert {path.name for path in tmp_path.iterdir()} <= {"bins", "cache"}


def test_control_the_client_itself_writes_outside(hub: Hub, tmp_path: Path) -> None:
    """The client by itself does what is refused here; else the check can go."""
    from huggingface_hub import hf_hub_download, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    set_client_factory(default_client_factory)  # of sessions that do not look
    hub.headers = {"ETag": '"../../../outside"'}
    hf_hub_download("org/glm", "config.json", endpoint=hub.url)
    assert (tmp_path / "outside").is_file()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("how", ["silent", "header", "body"])
def test_a_server_that_is_silent_is_given_up(
    how: str, name: str, hub: Hub, run: Callable[..., str]
) -> None:
    hub.slow = {name: how}
    begin = time.monotonic()
    said = run("check", "org/glm", "--timeout", "0.5", code=2)
    assert "the server sent next to nothing for 0.5 seconds" in said
    assert "--timeout" in said
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("how", ["silent", "header", "body"])
def test_a_build_gives_a_silent_server_up(how: str, hub: Hub, build: Path) -> None:
    loaded = builds.import_build(build)
    hub.slow = {"model.safetensors.index.json": how}
    with pytest.raises(ValueError, match=r"next to nothing for 0\.5 seconds"):
        loaded.load("org/glm", endpoint=hub.url, timeout=0.5)


def test_bisect_takes_a_hub_id(
    run: Callable[..., str], build: Path, sharded: Path, tmp_path: Path
) -> None:
    golden = tmp_path / "golden.safetensors"
    run("verify", build, "--weights", sharded, "--save", golden, "--device", "cpu")
    words = ["--weights", "org/glm", "--against", golden, "--device", "cpu"]
    assert "no difference" in run("bisect", build, *words)


@pytest.mark.parametrize("weights", ["chekpoint", "./chekpoint", "a/b/c", "org/"])
def test_what_is_no_hub_id_is_not_asked_for(
    weights: str, hub: Hub, build: Path, run: Callable[..., str]
) -> None:
    said = run("run", build, "--weights", weights, *PROMPT, code=2)
    assert f"{weights} does not exist" in said
    assert not hub.log


def test_a_server_that_is_not_there_is_asked_twice(
    build: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(build), "--weights", "org/glm", *PROMPT]
    assert main([*words, "--endpoint", "http://127.0.0.1:9"]) == 2
    assert (
        "the hub cannot be reached (127.0.0.1 does not answer)"
        in capsys.readouterr().err
    )
    # And a session that was made anew since still looks at what is answered.
    hub.headers = {"ETag": '"../../../outside"'}
    assert main([*words, "--endpoint", hub.url]) == 2
    assert "the name of no file" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "x"])
def test_a_timeout_is_a_number_of_seconds(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "org/glm", "--timeout", seconds]) == 2
    told = capsys.readouterr().err
    assert f"a number of seconds above 0, found '{seconds}'" in told
