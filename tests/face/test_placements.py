"""The place of each op on a GPU: in the ledger, on the terminal, and with --strict."""

import json
import shutil
from pathlib import Path

import pytest

from glmc.backends.target import target
from glmc.command.cli import main
from glmc.compile.driver import Options, compile_files
from glmc.look.builds import Build
from glmc.report.document import document

SMALL = "qwen3-0.6b"
SPARSE = "glm-5"
WIDE = ["--set", "head_dim=1024"]
REASON = "qkv_attention: a program holds heads of 512 channels at most, not of 1024"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build whose attention has no kernel."""
    out = tmp_path_factory.mktemp("placements") / "build"
    assert main(["compile", str(SMALL), "-o", str(out), *WIDE]) == 0
    return out


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_every_op_of_the_last_stage_is_in_the_ledger(wide: Path) -> None:
    build = Build(wide)
    ops = [(op.mnemonic, g.name) for g in build.program.graphs for op in g.ops]
    assert [(row.op, row.graph) for row in build.placements] == ops
    told = {row.op: (row.where, row.reason) for row in build.placements}
    assert told["qkv_attention"] == ("reference", REASON)
    assert told["rms_norm_linear"] == ("kernel", "")
    assert told["embedding"][0] == "torch"
    assert {bool(reason) for where, reason in told.values() if where != "kernel"} == {
        True
    }
    imported = "from .reference import embedding, qkv_attention, rope_table\n"
    assert imported in build.source("kernels.py")
    assert "def qkv_attention(" not in build.source("kernels.py")


def test_inspect_shows_it(wide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "inspect", wide, "--ledger")
    assert f"  reference qkv_attention\n            {REASON}" in text
    assert "  torch     embedding\n" in text
    assert "in all:" in text
    facts = json.loads(run(capsys, "inspect", wide, "--ledger", "--json"))
    assert {row["where"] for row in facts["backend"]} == {
        "kernel",
        "torch",
        "reference",
    }
    assert {row["status"] for row in facts["ledger"]} >= {"applied", "absent"}
    assert REASON in run(capsys, "inspect", wide)


def test_one_op_says_what_runs_it(
    wide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, "inspect", wide, "--op", "qkv_attention")
    assert f"    on a GPU: reference.py, for want of a kernel: {REASON}\n" in text
    text = run(capsys, "inspect", wide, "--op", "rms_norm_linear")
    assert "    on a GPU: a kernel of kernels.py\n" in text
    found = json.loads(run(capsys, "inspect", wide, "--op", "%x", "--json"))
    assert [use["where"] for use in found["uses"]] == ["torch"]


def test_a_build_of_before_has_no_word_of_it(
    wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(wide, old)
    ledger = old / "ir" / "ledger.json"
    ledger.write_text(json.dumps(json.loads(ledger.read_text())["fusions"]))
    assert "on a GPU" not in run(capsys, "inspect", old, "--op", "qkv_attention")


def test_explain_says_what_runs_an_op(capsys: pytest.CaptureFixture[str]) -> None:
    kernel = "on a GPU: a kernel of kernels.py\n"
    unless = f"{kernel}  unless a layer has sizes or arguments that it does not take\n"
    assert unless in run(capsys, "explain", "qkv_attention")
    assert run(capsys, "explain", "rms_norm").endswith(kernel)
    torch = "on a GPU: torch, by design\n  a view: nothing is launched\n"
    assert torch in run(capsys, "explain", "split")
    facts = json.loads(run(capsys, "explain", "index_select", "--json"))
    assert facts["where"] == "reference"
    assert facts["reason"] == "index_select: no kernel is written for it"


def test_compile_says_it_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compile", SMALL, "-o", tmp_path / "build"]
    line = "on a GPU 28 ops of a token run as torch code: qkv_attention; why: glmc"
    assert line in run(capsys, *command, *WIDE)
    facts = json.loads(run(capsys, *command, *WIDE, "--json"))
    assert facts["without_kernel"] == {"qkv_attention": REASON}
    assert facts["torch_ops_of_a_token"] == 28
    assert "on a GPU" not in run(capsys, *command)
    assert json.loads(run(capsys, *command, "--json"))["without_kernel"] == {}


def test_strict_refuses_with_the_op_the_reason_and_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "build"
    command = ["compile", str(SMALL), "-o", str(out), "--strict"]
    assert main([*command, *WIDE]) == 2
    error = capsys.readouterr().err
    assert "GLMC067" in error
    assert REASON in error
    assert "Compile without --strict" in error
    assert "--kernel qkv_attention=FILE" in error
    assert not out.exists()
    # Its embedding and rope table are torch's too, and by design.
    assert main([*command, "--set", "head_dim=512"]) == 0


def test_strict_minds_what_nobody_wrote_but_not_with_a_kernel_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compile", str(SPARSE), "-o", str(tmp_path / "build"), "--strict"]
    assert main([*command, "--disable", "merge-qkv"]) == 2
    assert "index_select: no kernel is written for it" in capsys.readouterr().err
    program = compile_files(SPARSE, Options()).stages[-1].program
    places = {
        row.op: row for row in target("any").placements(program, ["index_select"])
    }
    assert places["index_select"].where == "own"


def test_a_build_from_a_dump_has_it_too(wide: Path, tmp_path: Path) -> None:
    dump = sorted(wide.glob("ir/*-qkv-attention.glmc"))[0]
    out = tmp_path / "again"
    assert main(["compile", "--from-ir", str(dump), "-o", str(out)]) == 0
    assert Build(out).placements == Build(wide).placements


def test_the_report_lists_what_has_no_kernel(wide: Path) -> None:
    rows = [row for row in document(Build(wide))["ledger"] if row.get("where")]
    assert ("qkv_attention", "reference", REASON) in {
        (row["fusion"], row["status"], row["reason"]) for row in rows
    }
    assert "kernel" not in {row["status"] for row in rows}


def test_a_ledger_of_before_can_be_read(
    wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {p.name: p for p in wide.rglob("*") if p.is_file()}
    old = tmp_path / "old"
    for path in files.values():
        place = old / path.relative_to(wide)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    ledger = old / "ir" / "ledger.json"
    ledger.write_text(json.dumps(json.loads(ledger.read_text())["fusions"]))
    assert Build(old).ledger == Build(wide).ledger
    assert "on a GPU" not in run(capsys, "inspect", old, "--ledger")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--aot", "cuda:75"], "GLMC061", "Unknown target 'cuda:75'"),
        (["--aot", "hip:gfx90a", "--aot-dtype", "f64"], "GLMC065", "dtype 'f64'"),
        (["--aot", "hip:gfx90a", "--aot-dtype", "fp8_e4m3"], "GLMC065", "f16, bf16"),
        (["--set", "head_dim=0"], "GLMC029", "must be a positive whole number"),
        (["--set", "head_dim=17"], "GLMC015", "17 rotary channels"),
    ],
)
def test_what_no_target_has_is_refused_with_a_sentence(
    options: list[str],
    code: str,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "build"
    assert main(["compile", str(SMALL), "-o", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert f"error[{code}" in error
    assert words in error
    assert not out.exists()
