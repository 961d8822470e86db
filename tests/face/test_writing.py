"""Writing: whole or not at all, never over a user's edits, nothing of theirs lost."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glmc.command.cli import main
from glmc.compile.driver import json_text
from glmc.compile.writing import digest, write_build
from glmc.files import replacing
from glmc.files.manifest import MANIFEST
from glmc.files.replacing import write_file
from glmc.ir.errors import GlmcError, OutputError
from support import GOLDEN
from support.cli import glmc, refused
from support.durability import ended, forked


def files(**texts: str) -> dict[str, str]:
    """Files of a build, with the manifest that names them."""
    named = {name.replace("__", "."): text for name, text in texts.items()}
    hashes = {name: digest(text) for name, text in named.items()}
    return {**named, MANIFEST: json_text({"files": hashes})}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_build_is_replaced_and_what_a_user_added_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "build"
    write_build(out, files(model__py="one", gone__py="old"), force=False)
    (out / "mine.py").write_text("mine")
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "model.pyc").write_text("stale")
    write_build(out, files(model__py="two"), force=False)
    assert (out / "model.py").read_text() == "two"
    assert names(out) == {"model.py", "mine.py", MANIFEST}
    assert names(tmp_path) == {"build"}


def test_an_edit_stops_the_compiler_and_force_keeps_a_copy(tmp_path: Path) -> None:
    out = tmp_path / "build"
    write_build(out, files(model__py="one"), force=False)
    for copy in ("build.bak", "build.bak-2"):
        (out / "model.py").write_text("edited")
        with pytest.raises(GlmcError, match=r"edited since .*: model\.py"):
            write_build(out, files(model__py="two"), force=False)
        assert (out / "model.py").read_text() == "edited"
        write_build(out, files(model__py="two"), force=True)
        assert (out / "model.py").read_text() == "two"
        assert (tmp_path / copy / "model.py").read_text() == "edited"


def test_a_deleted_file_is_an_edit(tmp_path: Path) -> None:
    out = tmp_path / "build"
    write_build(out, files(model__py="one"), force=False)
    (out / "model.py").unlink()
    with pytest.raises(GlmcError, match="edited"):
        write_build(out, files(model__py="two"), force=False)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.tex").write_text("years")
    with pytest.raises(GlmcError, match="not written by glmc"):
        write_build(out, files(model__py="one"), force=False)
    assert names(out) == {"thesis.tex"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(GlmcError, match="not a folder"):
        write_build(tmp_path / "file", files(model__py="one"), force=False)


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    out = tmp_path / "build"
    out.mkdir()
    write_build(out, files(model__py="one"), force=False)
    assert names(out) == {"model.py", MANIFEST}


def test_a_failure_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "build"
    write_build(out, files(model__py="one"), force=False)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OutputError, match="no space"):
        write_build(out, files(model__py="two"), force=False)
    assert (out / "model.py").read_text() == "one"
    assert names(tmp_path) == {"build"}


def test_a_failed_rename_puts_the_old_build_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "build"
    write_build(out, files(model__py="one"), force=False)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == out and (self / "model.py").read_text() == "two":
            raise OSError("refused")
        return rename(self, target)

    monkeypatch.setattr(replacing, "_renameat2", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="refused"):
        write_build(out, files(model__py="two"), force=False)
    assert (out / "model.py").read_text() == "one"
    assert names(tmp_path) == {"build"}


@pytest.mark.parametrize(
    "command",
    [
        ["compile", "chatglm3-6b", "-o", "file/build"],
        ["ir", "DUMP", "-o", "file/x.glmc"],
        ["report", "BUILD", "-o", "file/r.html"],
        ["specs", "new", "CHECKPOINT", "-o", "file/s.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_what_cannot_be_written_is_a_sentence(
    command: list[str],
    compiled: Callable[[Path], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = compiled(GOLDEN / "chatglm3")
    (tmp_path / "file").write_text("in the way of a folder")
    monkeypatch.chdir(tmp_path)
    places = {
        "BUILD": str(build),
        "DUMP": str(build / "ir" / "1-lowered.glmc"),
        "CHECKPOINT": str(GOLDEN / "chatglm3"),
    }
    assert main([places.get(word, word) for word in command]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"glmc: error[GLMC073]: {command[-1]} cannot be written")


def test_a_link_is_followed_and_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to("real")
    for text in ("one", "two"):
        write_build(link, files(model__py=text), force=False)
        assert link.is_symlink()
        assert (real / "model.py").read_text() == text
    write_file(tmp_path / "link" / "r.html", "page")
    (tmp_path / "r.html").symlink_to(real / "r.html")
    write_file(tmp_path / "r.html", "another")
    assert (tmp_path / "r.html").is_symlink()
    assert (real / "r.html").read_text() == "another"
    assert names(tmp_path) == {"real", "link", "r.html"}


def test_every_kind_of_added_thing_is_kept(tmp_path: Path) -> None:
    out, weights = tmp_path / "build", tmp_path / "weights"
    weights.mkdir()
    write_build(out, files(model__py="one"), force=False)
    (out / "deep" / "er").mkdir(parents=True)
    (out / "deep" / "er" / "mine.py").write_text("mine")
    (out / "weights").symlink_to(weights)
    (out / "gone").symlink_to("nowhere")
    before = (out / "deep" / "er" / "mine.py").stat().st_ino
    write_build(out, files(model__py="two"), force=False)
    assert (out / "deep" / "er" / "mine.py").stat().st_ino == before
    assert (out / "weights").is_symlink()
    assert (out / "gone").is_symlink()


@pytest.mark.parametrize("mine", ["kernels.py", "aot", "own/add.py/notes"])
def test_a_users_file_is_not_covered_by_the_builds(mine: str, tmp_path: Path) -> None:
    """Nor the build's by a user's: the old compile left a mixture."""
    out = tmp_path / "build"
    write_build(out, files(model__py="one"), force=False)
    (out / mine).parent.mkdir(parents=True, exist_ok=True)
    (out / mine).write_text("mine")
    fresh = {"model.py": "two", "kernels.py": "k", "aot/a": "a", "own/add.py": "b"}
    fresh[MANIFEST] = json_text({"files": {n: digest(t) for n, t in fresh.items()}})
    with pytest.raises(GlmcError, match=f"files of yours that .*: {mine}"):
        write_build(out, fresh, force=False)
    assert (out / mine).read_text() == "mine"
    write_build(out, fresh, force=True)
    assert (tmp_path / "build.bak" / mine).read_text() == "mine"
    assert (out / "kernels.py").read_text() == "k"


def test_what_is_saved_while_a_build_is_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor that saves after the check: an edit is told, a new file comes along."""
    out = tmp_path / "build"
    exchange = replacing._exchange

    def saving(name: str) -> None:
        def late(one: Path, other: Path) -> Path:
            if (other / "model.py").read_text() == "one":
                (other / name).write_text("saved late")
            return exchange(one, other)

        monkeypatch.setattr(replacing, "_exchange", late)

    write_build(out, files(model__py="one"), force=False)
    saving("notes.txt")
    write_build(out, files(model__py="two"), force=False)
    assert (out / "notes.txt").read_text() == "saved late"
    write_build(out, files(model__py="one"), force=False)
    saving("model.py")
    with pytest.raises(GlmcError, match=r"edited since .*: model\.py"):
        write_build(out, files(model__py="two"), force=False)
    assert (out / "model.py").read_text() == "saved late"
    assert names(tmp_path) == {"build"}


def model_files(**traits: object) -> dict[str, str]:
    made = files(model__py="one")
    manifest = {**json.loads(made[MANIFEST]), **traits}
    return made | {MANIFEST: json_text(manifest)}


LLAMA = {"hidden": 64, "vocab": 100, "config": {"model_type": "llama"}}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"config": {"model_type": "glm"}}, "its model_type is llama, this one's glm"),
        ({"hidden": 128}, "its width is 64, this one's 128"),
        ({"vocab": 99}, "its vocabulary is 100, this one's 99"),
    ],
)
def test_two_models_do_not_share_a_folder(
    other: dict[str, object], told: str, tmp_path: Path
) -> None:
    out = tmp_path / "build"
    write_build(out, model_files(**LLAMA), force=False)
    with pytest.raises(GlmcError, match=told):
        write_build(out, model_files(**LLAMA | other), force=False)
    write_build(out, model_files(**LLAMA, layers=5), force=False)
    write_build(out, model_files(**LLAMA | other), force=True)
    assert names(tmp_path) == {"build", "build.bak"}


@pytest.mark.parametrize("name", ["torch", "json", "safetensors", "glmc"])
def test_a_name_that_hides_a_module_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "chatglm3-6b", "-o", str(tmp_path / name)]) == 2
    assert f"the place of the module {name}" in capsys.readouterr().err
    assert not names(tmp_path)


@pytest.mark.parametrize("name", ["class", "my-build", "6b", "build"])
def test_a_name_that_cannot_be_imported_is_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(GOLDEN / "chatglm3"), "-o", str(tmp_path / name)]) == 0
    told = f"{name!r} is no name that Python can import"
    assert (told in capsys.readouterr().err) == (name != "build")


def test_who_holds_a_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "_PATIENCE", 0.2)
    with (
        replacing.claimed(tmp_path / "build"),
        pytest.raises(OutputError, match=rf"being written by process {os.getpid()} on"),
    ):
        write_build(tmp_path / "build", files(model__py="one"), force=False)
    write_build(tmp_path / "build", files(model__py="one"), force=False)
    assert names(tmp_path) == {"build"}


@pytest.mark.parametrize("length", [180, 240, 255])
def test_long_names_are_written(length: int, tmp_path: Path) -> None:
    for text in ("one", "two"):
        write_build(tmp_path / ("n" * length), files(model__py=text), force=False)
    write_file(tmp_path / ("f" * length), "text")
    assert names(tmp_path) == {"n" * length, "f" * length}


LONG = "n" * 300


@pytest.mark.parametrize(
    "command",
    [
        ["compile", "CHECKPOINT", "-o", LONG],
        ["compile", LONG],
        ["compile", "--from-ir", LONG],
        ["inspect", LONG],
        ["report", LONG],
        ["check", "BUILD", "--weights", LONG],
        ["run", "BUILD", "--weights", LONG, "--prompt-ids", "1"],
        ["quantize", LONG, "-o", "x", "--bits", "4"],
        ["compile", "~no-such-user/model"],
    ],
    ids=lambda command: " ".join(command)[:30],
)
def test_a_name_that_no_file_can_have_is_a_sentence(
    command: list[str], compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = GOLDEN / "chatglm3"
    places = {"BUILD": str(compiled(source)), "CHECKPOINT": str(source)}
    refused(glmc(*(places.get(word, word) for word in command), cwd=tmp_path))
    assert not names(tmp_path)


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="a file that is always full")
@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "BUILD"],
        ["explain"],
        ["check", "BUILD", "--weights", "CHECKPOINT"],
        ["check", "BUILD", "--weights", "BUILD", "--json"],
        ["run", "BUILD", "--weights", "CHECKPOINT", "--prompt-ids", "1,2"],
        ["report", "BUILD", "-o", "r.html"],
        ["report", "BUILD", "-o", "/dev/full"],
    ],
    ids=lambda command: " ".join(command)[:30],
)
def test_a_full_disk_behind_the_output_is_a_sentence(
    command: list[str], compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = GOLDEN / "chatglm3"
    places = {"BUILD": str(compiled(source)), "CHECKPOINT": str(source)}
    words = [sys.executable, "-m", "glmc", *(places.get(w, w) for w in command)]
    with FULL.open("w") as full:
        ran = subprocess.run(
            words, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert ran.returncode == 2
    assert ran.stderr.startswith(b"glmc: error[GLMC0")
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr
    assert names(tmp_path) <= {"r.html"}


@pytest.mark.parametrize("closing", ["| head -c 1", ">&-", "2>&-"])
def test_closed_pipes_are_no_mistake(
    closing: str, compiled: Callable[[Path], Path]
) -> None:
    build = compiled(GOLDEN / "chatglm3")
    script = f'set -o pipefail; "$0" -m glmc inspect "$1" --stages {closing}'
    words = ["bash", "-c", script, sys.executable, str(build)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("most", [700, 2000, 20_000])
def test_quantize_on_a_full_disk_leaves_nothing(
    most: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        source, out = GOLDEN / "chatglm3", tmp_path / "small"
        os._exit(main(["quantize", str(source), "-o", str(out), "--bits", "8"]))

    assert ended(forked(limited)) == 2
    told = capfd.readouterr().err
    assert "small" in told
    assert "cannot be written" in told
    assert not names(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "BUILD", "--stage", "x"],
        ["compile", "no/such", "--offline"],
        ["report", "BUILD", "--svg", "tail"],
    ],
    ids=lambda command: command[0],
)
def test_errors_under_json_are_json(
    command: list[str],
    compiled: Callable[[Path], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"BUILD": str(compiled(GOLDEN / "chatglm3"))}
    assert main([places.get(word, word) for word in [*command, "--json"]]) == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert err.startswith(f"glmc: error[{error['code']}]: {error['message']}\n")
    assert error["exit_code"] == 2
    assert error["next_step"]
