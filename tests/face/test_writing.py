"""Writing: whole or not at all, never over a user's edits, nothing of theirs lost."""

from collections.abc import Callable
from pathlib import Path

import pytest

from glmc import writing
from glmc.cli import main
from glmc.driver import json_text
from glmc.ir.errors import GlmcError, OutputError
from glmc.writing import MANIFEST, digest, write_build
from support import GOLDEN


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

    monkeypatch.setattr(writing, "_swap", fail)
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
        if self.name.startswith(".build."):
            raise OSError("refused")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="refused"):
        write_build(out, files(model__py="two"), force=False)
    assert (out / "model.py").read_text() == "one"


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
