"""Files read back from a build are believed no more than any foreign file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmc import compile_model
from glmc.command.cli import main
from glmc.compile.dumps import rebuild
from glmc.files.manifest import MANIFEST
from glmc.ir.errors import GlmcError
from glmc.look.builds import Build
from glmc.look.inspecting import summary
from support import GOLDEN

SOURCE = GOLDEN / "chatglm3"


@pytest.fixture
def build(compiled: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A copy of a build, to spoil."""
    return Path(shutil.copytree(compiled(SOURCE), tmp_path / "build"))


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The paragraph of a refusal."""
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("glmc: error[GLMC")
    assert said.count("\n") == 2
    return said


MANIFESTS = {
    "nothing in it": '{"files":{}}',
    "half": "{",
    "deep": "[" * 100_000,
    "a list": "[]",
    "no file": "",
    "5000 digits": '{"files":{},"hidden":' + "9" * 5000 + "}",
    "a path": '{"files":{"../../x":"' + "0" * 64 + '"}}',
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_spoilt_manifest_is_a_sentence(
    kind: str, build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (build / MANIFEST).write_text(MANIFESTS[kind])
    before = (build / "model.py").read_bytes()
    for command in (
        ["inspect", build],
        ["inspect", build, "--stage", "lowered"],
        ["report", build],
        ["check", build, "--weights", SOURCE],
        ["run", build, "--weights", SOURCE, "--prompt-ids", "1"],
        ["compile", SOURCE, "-o", build],
    ):
        told(capsys, *map(str, command))
    assert (build / "model.py").read_bytes() == before
    compile_model(SOURCE, build, force=True)
    summary(Build(build))


def changed(build: Path, **fields: Any) -> None:
    manifest = json.loads((build / MANIFEST).read_text())
    (build / MANIFEST).write_text(json.dumps(manifest | fields))


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "../outside", "ir/../../outside", "..\\outside", "a\0b"]
)
def test_a_manifest_shows_no_other_file(
    file: str, build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (build.parent / "outside").write_text("of nobody's business")
    stages = [{"name": name, "file": file, "doc": ""} for name in ("model", "lowered")]
    changed(build, stages=stages)
    said = told(capsys, "inspect", build, "--stage", "lowered")
    assert "is no path within the build" in said
    assert "business" not in said


def test_a_link_out_of_a_build_shows_what_was_compiled_or_nothing(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump, moved = build / "ir" / "1-lowered.glmc", tmp_path / "moved"
    dump.rename(moved)
    dump.symlink_to(moved)
    assert main(["inspect", str(build), "--stage", "lowered"]) == 0
    moved.write_text("of nobody's business")
    capsys.readouterr()
    said = told(capsys, "inspect", build, "--stage", "lowered")
    assert "leads out of the build" in said
    assert "business" not in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"config_keys": {"a": {"status": "lost"}}}, "config_keys.a.status"),
        ({"config_keys": {"a": 5}}, "config_keys.a"),
        ({"spec_lines": {"a": {"where": "x", "says": 1, "keys": []}}}, "spec_lines"),
        ({"stages": []}, "stages"),
        ({"config": []}, "config"),
        ({"files": {"model.py": "no digest"}}, "files.model.py"),
    ],
)
def test_fields_of_a_manifest_are_of_their_kinds(
    fields: dict[str, Any], said: str, build: Path
) -> None:
    changed(build, **fields)
    with pytest.raises(GlmcError, match=re.escape(said)):
        summary(Build(build))


@pytest.mark.parametrize(
    "ledger",
    ["{", "[1]", '{"fusions": 5}', '{"fusions": [{"fusion": "x"}]}', "[" * 100_000],
)
def test_a_spoilt_ledger_is_a_sentence(
    ledger: str, build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (build / "ir" / "ledger.json").write_text(ledger)
    assert "ledger.json" in told(capsys, "inspect", build)
    assert "ledger.json" in told(capsys, "report", build)


DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("layers=[0,1,2]", "layers=[0,1,1]", r"layers \[0, 1, 1\], not each exactly"),
        ("layers=[0,1,2]", "layers=[0,1,3]", r"layers \[0, 1, 3\], not each exactly"),
        ("layers=[0,1,2]", "layers=[]", "it has no layers"),
        ("kv_heads=2", "kv_heads=3", r"4 heads do not group over kv\[3,"),
        ("heads=4", "heads=7", "is no model"),
        ("dim=8", "dim=4096", "is no model"),
        ('name="layer"', 'name="none"', "'none' cannot be a name"),
        ('name="layer"', 'name="true"', "'true' cannot be a name"),
        ('name="layer"', 'name="_"', "'_' cannot be a name"),
        ('name="layer"', 'name="model"', "'model' cannot be a name"),
        ('name="layer"', 'name="block"', "'block' cannot be a name"),
        ('name="layer"', 'name="head"', "'head' cannot be a name"),
        ('name="chatglm"', 'name="a b"', "'a b' cannot be a name"),
        ("eps=1e-05", "eps=1e999", "the number 1e999 is too large"),
        ("eps=1e-05", "eps=nan", "eps"),
        ("vocab=", "vocab=1" + "0" * 23, "which nothing is sized by"),
        ("vocab=", "vocab=" + DIGITS, r"a number of \d+ digits"),
        ("vocab=", "vocab=-", "vocab"),
        ("hidden=", "hidden=9999999999", "larger than any memory|is no model"),
    ],
    ids=lambda text: text[:24],
)
def test_a_model_dump_that_was_edited_wrongly_is_a_sentence(
    old: str, new: str, said: str, build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = build / "ir" / "0-model.glmc"
    text = dump.read_text().replace("layers=[0, 1, 2]", "layers=[0,1,2]")
    assert old in text
    dump.write_text(text.replace(old, new))
    out = build.parent / "out"
    told_by_compile = told(capsys, "compile", "--from-ir", dump, "-o", out)
    assert re.search(said, told_by_compile)
    assert str(dump) in told_by_compile
    assert not out.exists()


@pytest.mark.parametrize(
    "name", ["__debug__", "lambda", "self", "zip", "__x", "ops", "nn", "x" * 300]
)
def test_a_value_that_cannot_be_a_variable_is_refused(name: str, build: Path) -> None:
    dump = build / "ir" / "1-lowered.glmc"
    text = dump.read_text()
    dump.write_text(re.sub(r"%ff\b", f"%{name}", text))
    with pytest.raises(GlmcError, match="cannot be a name"):
        rebuild(dump)


@pytest.mark.parametrize("name", ["forward", "parameters", "_x", "training"])
def test_a_parameter_that_hides_the_modules_own_is_refused(
    name: str, build: Path
) -> None:
    dump = build / "ir" / "1-lowered.glmc"
    dump.write_text(re.sub(r"@dense\b", f"@{name}", dump.read_text()))
    with pytest.raises(GlmcError, match=f"'{name}' cannot be a name"):
        rebuild(dump)


def test_blocks_of_one_class_are_refused(build: Path) -> None:
    dump = build / "ir" / "0-model.glmc"
    text = dump.read_text().replace("layers=[0, 1, 2]", "layers=[0,1,2]")
    begin = text.index("block(")
    depth, end = 0, begin
    for end in range(begin, len(text)):
        depth += (text[end] == "(") - (text[end] == ")")
        if text[end] == ")" and not depth:
            break
    block = text[begin : end + 1]
    one = block.replace("[0,1,2]", "[0,1]").replace('"layer"', '"a_b"')
    other = block.replace("[0,1,2]", "[2]").replace('"layer"', '"a__b"')
    dump.write_text(text.replace(block, f"{one}, {other}"))
    with pytest.raises(GlmcError, match="'a_b' and 'a__b' would both be the class AB"):
        rebuild(dump)


@pytest.mark.parametrize(
    "deep", ["[" * 3000, "cat(" * 3000, '"a"[1]' + ".view(1)" * 5000, "{a: " * 3000]
)
def test_depth_of_a_dump_is_bounded(deep: str, build: Path) -> None:
    program, model = build / "ir" / "1-lowered.glmc", build / "ir" / "0-model.glmc"
    text = program.read_text()
    at = text.index('= "') + 2
    program.write_text(text[:at] + deep + text[at:])
    with pytest.raises(GlmcError):
        rebuild(program)
    model.write_text(model.read_text().replace("vocab=", f"vocab={deep}", 1))
    with pytest.raises(GlmcError):
        rebuild(model)


@pytest.mark.parametrize("deep", ["(" * 3000, "[a:" * 3000, "(" * 17 + "E" + ")" * 17])
def test_depth_of_a_layout_is_bounded(deep: str, build: Path) -> None:
    model = build / "ir" / "0-model.glmc"
    text = model.read_text()
    at = text.index('layout="') + len('layout="')
    model.write_text(text[:at] + deep + text[at:])
    with pytest.raises(GlmcError, match="nested more than 16 deep"):
        rebuild(model)
