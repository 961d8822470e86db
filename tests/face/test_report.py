"""The report: what it holds, and that it is drawn right. The browser is next door."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from glmc.command.cli import main
from glmc.compile.driver import compile_model
from glmc.ir.draw import mermaid, svg
from glmc.look import roofline
from glmc.look.builds import Build
from glmc.look.devices import DEVICES
from glmc.report import page
from glmc.report.document import document
from support import GOLDEN
from support.cli import glmc, python, refused


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    out = tmp_path_factory.mktemp("report") / "build"
    assert main(["compile", str(GOLDEN / "chatglm3"), "-o", str(out)]) == 0
    return Build(out)


def test_every_op_of_every_stage_is_drawn(build: Build) -> None:
    shown = document(build)
    assert [stage["name"] for stage in shown["stages"]] == list(build.stages)[1:]
    for stage in shown["stages"]:
        for graph in stage["graphs"]:
            drawing = shown["drawings"][graph["drawing"]]
            drawn = re.findall(r'class="op" data-op="(\d+)"', drawing)
            assert sorted(map(int, drawn)) == list(range(len(graph["ops"])))
    first, last = shown["stages"][0], shown["stages"][-1]
    assert len(first["graphs"][1]["ops"]) > len(last["graphs"][1]["ops"])


def test_ops_lead_to_their_lines(build: Build) -> None:
    shown = document(build)
    lines = shown["code"].splitlines()
    ops = [op for graph in shown["stages"][-1]["graphs"] for op in graph["ops"]]
    assert len(shown["links"]) == len(ops)
    for graph, at, line in shown["links"]:
        op = shown["stages"][-1]["graphs"][graph]["ops"][at]
        assert f"ops.{op['name']}(" in lines[line - 1]


def test_ops_of_a_prefix_encoder_lead_to_their_lines_too(tmp_path: Path) -> None:
    out = compile_model("chatglm-6b", tmp_path / "build", sets=["pre_seq_len=16"])
    shown = document(Build(out))
    graphs = shown["stages"][-1]["graphs"]
    assert graphs[0]["name"] == "prefix_encoder"
    assert len(shown["links"]) == sum(len(graph["ops"]) for graph in graphs)
    line = next(line for graph, _, line in shown["links"] if graph == 0)
    assert "ops.embedding(rows" in shown["code"].splitlines()[line - 1]


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
