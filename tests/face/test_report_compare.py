"""A report of two builds: what differs, in sentences and as data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmc import compile_model
from glmc.command.cli import main
from glmc.files.manifest import MANIFEST
from glmc.look.builds import Build
from glmc.look.inspecting import summary
from glmc.report import comparing_page
from glmc.report.comparing import comparison
from support import GOLDEN
from support.cli import glmc, refused

SOURCE = GOLDEN / "chatglm3"
Compile = Callable[[Path], Path]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Build]:
    """A Llama, and one with other heads in which a fusion is off."""
    folder = tmp_path_factory.mktemp("pair")
    one = compile_model("llama-3.1-8b", folder / "one")
    changed = ["num_key_value_heads=4"]
    other = compile_model(
        "llama-3.1-8b", folder / "other", sets=changed, disable=["rms-norm-linear"]
    )
    return Build(one), Build(other)


def differing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["mark"] != "same"]


def test_ops_stand_side_by_side(pair: tuple[Build, Build]) -> None:
    found = comparison(pair)
    layer = next(part for part in found["parts"] if part["a"]["title"].startswith("l"))
    marks = [
        (
            row["mark"],
            *(side and side[1].split("(")[0] for side in (row["a"], row["b"])),
        )
        for row in layer["rows"]
    ]
    assert [mark[0] for mark in marks].count("same") == 2
    assert ("a", "%qkv: bf16[B,T,6144] = rms_norm_linear", None) in marks
    assert ("b", None, "%qkv: bf16[B,T,5120] = linear") in marks
    attention = next(row for row in layer["rows"] if "qkv_attention" in str(row["a"]))
    assert attention["mark"] == "changed"
    assert "kv_heads=8" in attention["a"][1]
    assert "kv_heads=4" in attention["b"][1]
    for side, build in zip("ab", pair, strict=True):
        block = build.program.blocks[0]
        assert [row[side][0] for row in layer["rows"] if row[side]] == [
            *range(len(block.ops))
        ]


def test_weights_keys_fusions_and_files(pair: tuple[Build, Build]) -> None:
    found = comparison(pair)
    rows = [row for part in found["weights"] for row in part["rows"]]
    (qkv,) = differing(rows)
    assert qkv["name"] == "qkv"
    assert qkv["a"]["type"] == "bf16[6144,4096]"
    assert qkv["a"]["nbytes"] == 50331648
    assert qkv["b"]["type"] == "bf16[5120,4096]"
    assert qkv["b"]["nbytes"] == 41943040
    for side, build in zip("ab", pair, strict=True):
        whole = sum(part[side] for part in found["weights"])
        assert whole == summary(build)["weight_bytes"]
    (key,) = differing(found["keys"])
    assert (key["key"], key["a"][0], key["b"][0]) == ("num_key_value_heads", "8", "4")
    fusions = {row["fusion"]: row["mark"] for row in differing(found["fusions"])}
    # What else differs is why it was absent: without the one, products are left.
    assert fusions == {"rms-norm-linear": "a", "merge-selected": "changed"}
    assert {"model.py", "ir/1-lowered.glmc"} <= set(found["files"])
    assert found["said"] == ["10 ops, 1 weight and 1 config key differ."]


def test_builds_of_other_kinds_have_their_parts_apart() -> None:
    builds = (built("llama-3.1-8b"), built("glm-4.5-air"))
    found = comparison(builds)
    names = [(part["a"], part["b"]) for part in found["parts"]]
    titles = [tuple(side["title"] if side else None for side in n) for n in names]
    assert titles == [
        ("stem", "stem"),
        ("layer x 32", "dense_layer x 1"),
        ("head", "head"),
        (None, "moe_layer x 45"),
    ]
    assert {row["mark"] for row in found["parts"][3]["rows"]} == {"b"}
    back = comparison(builds[::-1])
    assert back["counts"] == found["counts"]
    assert {row["mark"] for row in back["parts"][-1]["rows"]} <= {"a", "b", "changed"}


def built(config: str) -> Build:
    from glmc.compile.driver import Options, compile_files

    files = compile_files(config, Options()).files
    texts = {n: text for n, text in files.items() if isinstance(text, str)}
    return Build(Path(config), texts)


def test_the_same_build_is_said_to_be(
    compiled: Compile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, out = str(compiled(SOURCE)), tmp_path / "r.html"
    assert main(["report", build, build, "-o", str(out)]) == 0
    same = "A and B are the same build: every file that was written is equal.\n"
    assert capsys.readouterr().out.startswith(same)
    assert same.strip() in out.read_text()
    assert main(["report", build, build, "-o", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["differ"].values()) == {0}
    assert facts["bytes"] == out.stat().st_size < 150_000


@pytest.fixture
def copy(compiled: Compile, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled(SOURCE), tmp_path / "copy"))


def edit(build: Path, **fields: Any) -> None:
    manifest = json.loads((build / MANIFEST).read_text())
    (build / MANIFEST).write_text(json.dumps(manifest | fields))


def test_equal_models_in_other_files_are_said_to_be(
    compiled: Compile, copy: Path
) -> None:
    files = json.loads((copy / MANIFEST).read_text())["files"]
    edit(copy, files=files | {"kernels.py": "0" * 64})
    _, found = comparing_page(Build(compiled(SOURCE)), Build(copy))
    assert found["said"] == [
        "A and B have the same ops, weights and config; of the files that were "
        "written these differ: kernels.py."
    ]


def test_versions_that_differ_are_said(compiled: Compile, copy: Path) -> None:
    edit(copy, glmc="0.0.9", config_keys={})
    _, found = comparing_page(Build(compiled(SOURCE)), Build(copy))
    assert found["said"][0].startswith("No ops, no weights and ")
    assert found["said"][1].startswith(
        "A was written by glmc 0.1.0 and B by glmc 0.0.9, so what differs may be"
    )


def test_what_is_refused(copy: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for pair in ((copy, empty), (empty, copy)):
        said = refused(glmc("report", *pair, "-o", tmp_path / "r.html"))
        assert f"{empty} is not a build" in said
    said = refused(glmc("report", copy, copy, "--svg", "layer"))
    assert "--svg draws a part of one build" in said
    last = list(Build(copy).stages.values())[-1]["file"]
    text = (copy / last).read_text()
    (copy / last).write_text(text.replace("program @", "programme 2 @", 1))
    said = refused(glmc("report", "chatglm3-6b", copy, "-o", tmp_path / "r.html"))
    assert str(copy / last) in said
    assert "line 1, column 1" in said
    edit(copy, glmc="0.0.9")
    said = refused(glmc("report", "chatglm3-6b", copy, "-o", tmp_path / "r.html"))
    assert "(of glmc 0.0.9; this is 0.1.0): line 1" in said
    (copy / MANIFEST).write_text("{}")
    said = refused(glmc("report", copy, "chatglm3-6b", "-o", tmp_path / "r.html"))
    assert f"{copy} is not a build" in said
    assert not (tmp_path / "r.html").exists()


def test_nothing_gets_out_of_its_place(compiled: Compile, copy: Path) -> None:
    bad = "</script><script>alert(1)</script>"
    fate = {"status": "ignored", "reason": "`<!--", "where": bad}
    edit(copy, spec=bad, glmc=bad, config={bad: bad}, config_keys={bad: fate})
    renamed = Path(copy.rename(copy.parent / '"><b>x'))
    text, found = comparing_page(Build(renamed), Build(compiled(SOURCE)))
    assert bad in json.dumps(found)
    assert "<script>alert" not in text
    assert "<b>x" not in text
    assert text.count("</script>") == 2
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in text.replace("http://www.w3.org/2000/svg", "")
