"""The report: what it holds, and that it is drawn right. The browser is next door."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from glmc.command.cli import main
from glmc.compile.driver import compile_model
from glmc.ir.draw import mermaid, svg
from glmc.ir.op import registry
from glmc.look import roofline
from glmc.look.builds import Build
from glmc.look.devices import DEVICES
from glmc.look.inspecting import summary
from glmc.report import page
from glmc.report.document import document
from glmc.report.parts import doc
from support import GOLDEN
from support.cli import glmc, python, refused


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    out = tmp_path_factory.mktemp("report") / "build"
    assert main(["compile", str(GOLDEN / "chatglm3"), "-o", str(out)]) == 0
    return Build(out)


def graphs_at(shown: dict[str, Any], stage: int) -> list[dict[str, Any]]:
    """The graphs of a stage, in the order of its parts."""
    return [shown["graphs"][at] for at in shown["stages"][stage]["graphs"]]


def test_every_op_of_every_stage_is_drawn(build: Build) -> None:
    shown = document(build)
    assert [stage["name"] for stage in shown["stages"]] == list(build.stages)[1:]
    for stage, name in enumerate(list(build.stages)[1:]):
        graphs = graphs_at(shown, stage)
        whole = build.program_at(name)
        assert [graph["name"] for graph in graphs] == [g.name for g in whole.graphs]
        for graph in graphs:
            drawn = re.findall(r'class="op" data-op="(\d+)"', graph["drawing"])
            assert sorted(map(int, drawn)) == list(range(len(graph["ops"])))
            assert {op["name"] for op in graph["ops"]} <= shown["docs"].keys()
    first, last = graphs_at(shown, 0), graphs_at(shown, -1)
    assert len(first[1]["ops"]) > len(last[1]["ops"])
    # What a pass left alone is not written again.
    assert len(shown["graphs"]) < len(shown["stages"]) * len(first)


def test_ops_lead_to_their_lines(build: Build) -> None:
    shown = document(build)
    lines = shown["code"].splitlines()
    graphs = graphs_at(shown, -1)
    ops = [op for graph in graphs for op in graph["ops"]]
    assert len(shown["links"]) == len(ops)
    for graph, at, line in shown["links"]:
        assert f"ops.{graphs[graph]['ops'][at]['name']}(" in lines[line - 1]


def test_ops_of_a_prefix_encoder_lead_to_their_lines_too(tmp_path: Path) -> None:
    out = compile_model("chatglm-6b", tmp_path / "build", sets=["pre_seq_len=16"])
    shown = document(Build(out))
    graphs = graphs_at(shown, -1)
    assert graphs[0]["name"] == "prefix_encoder"
    assert len(shown["links"]) == sum(len(graph["ops"]) for graph in graphs)
    line = next(line for graph, _, line in shown["links"] if graph == 0)
    assert "ops.embedding(rows" in shown["code"].splitlines()[line - 1]


def test_no_op_is_told_with_raw_markup() -> None:
    told = {name: doc(name) for name in registry()}
    for name, text in told.items():
        assert text, name
        assert not re.search("``|:`", text), f"{name}: {text}"
        assert text.count("`") % 2 == 0, f"{name}: {text}"
    assert "`[out, in]`" in told["linear"]


def test_weights_add_up(build: Build) -> None:
    shown = document(build)["weights"]
    facts = summary(build)
    assert sum(part["all"] for part in shown) == facts["weight_bytes"]
    assert [part["times"] for part in shown] == [1, 3]
    for part in shown:
        assert sum(one["nbytes"] for one in part["params"]) == part["each"]
    qkv = next(one for one in shown[1]["params"] if one["name"] == "qkv")
    rows, columns = map(int, re.findall(r"\d+(?=[,\]])", qkv["type"]))
    assert qkv["nbytes"] == rows * columns * 4


def test_keys_have_their_values(build: Build) -> None:
    config = build.manifest["config"]
    shown = {row["key"]: row for row in document(build)["keys"]}
    assert shown.keys() == build.manifest["config_keys"].keys()
    for key, row in shown.items():
        assert (row["value"] is None) == (key not in config)
        if row["value"] is not None:
            assert json.loads(row["value"]) == config[key]
    assert shown["num_layers"]["value"] == "3"


def test_the_roofline_is_that_of_the_command(build: Build) -> None:
    shown = document(build)["roofline"]
    assert shown["devices"]["h200"]["bandwidth"] == DEVICES["h200"].bandwidth
    for call in shown["calls"]:
        named = roofline.call_of(call["batch"], call["context"], call["tokens"])
        lines = roofline.lines(build.program, named, DEVICES["h200"], build.target)
        sums = [sum(row[3] * row[at] for row in call["lines"]) for at in (4, 5)]
        whole = roofline.total(lines)
        assert sums == [whole.nbytes, whole.flops]
        assert whole.flops > 0


def test_an_edited_module_loses_links_but_not_the_report(
    build: Build, tmp_path: Path
) -> None:
    copy = tmp_path / "build"
    copy.mkdir()
    for file in build.path.glob("*.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "ir").symlink_to(build.path / "ir")
    text = (copy / "model.py").read_text()
    (copy / "model.py").write_text(text.replace("ops.linear_add", "ops.mine"))
    assert 0 < len(document(Build(copy))["links"]) < len(document(build)["links"])
    (copy / "model.py").write_text("def (")
    assert document(Build(copy))["links"] == []


def test_the_page_stands_alone(build: Build) -> None:
    text = page(build)
    assert text == page(build)
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in text.replace("http://www.w3.org/2000/svg", "")
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert data
    assert json.loads(data[1])["facts"][0] == ["layers", "3 x layer"]


def test_nothing_from_a_config_gets_out_of_its_place(build: Build) -> None:
    spoilt = build.manifest["config_keys"] | {
        "</script><script>alert(1)</script>": {
            "status": "ignored",
            "reason": "<!--",
            "where": "",
        }
    }
    hostile = Build(build.path)
    hostile.__dict__["manifest"] = {**build.manifest, "config_keys": spoilt}
    text = page(hostile)
    assert "<script>alert" not in text
    assert text.count("</script>") == page(build).count("</script>") == 2


def test_a_report_is_written_without_torch(build: Build, tmp_path: Path) -> None:
    script = (
        "import sys; from glmc.command.cli import main;"
        f"main(['report', {str(build.path)!r}, '-o', 'r.html']);"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    run = python(script, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "r.html").stat().st_size < 300_000


def test_drawings_for_documents(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["report", str(build.path), "--stage", "lowered"]
    assert main([*command, "--svg", "layer"]) == 0
    drawing = capsys.readouterr().out
    assert drawing.startswith("<svg ")
    assert "<style>" in drawing
    assert main([*command, "--mermaid", "layer"]) == 0
    chart = capsys.readouterr().out
    assert chart.startswith("flowchart TD\n")
    assert '["rms_norm<br/>@input_layernorm"]' in chart
    assert "-->|B T 64|" in chart


def test_refusals(build: Build, tmp_path: Path) -> None:
    said = refused(glmc("report", build.path, "--svg", "tail"))
    assert "has no part 'tail'; it has stem, layer, head" in said
    said = refused(glmc("report", build.path, "-o", tmp_path / "no" / "r.html"))
    assert "cannot be written" in said
    assert "--stage is for" in refused(glmc("report", build.path, "--stage", "lowered"))


def test_mermaid_escapes_what_it_would_read(build: Build) -> None:
    text = mermaid(build.program.blocks[0])
    for line in text.splitlines()[1:]:
        assert re.fullmatch(
            r'  (\w+ -->\|[\w ]+\| \w+|\w+\["[^"\[\]{}|]+"\]|\w+\(\["[^"]+"\]\))', line
        ), line


def test_a_drawing_is_the_same_in_every_process(build: Build, tmp_path: Path) -> None:
    script = (
        "from glmc.look.builds import Build; from glmc.ir.draw import svg;"
        "from pathlib import Path;"
        f"print(svg(Build(Path({str(build.path)!r})).program.blocks[0]))"
    )
    for seed in ("1", "2"):
        run = python(script, cwd=tmp_path, PYTHONHASHSEED=seed)
        assert run.stdout.strip() == svg(build.program.blocks[0])
