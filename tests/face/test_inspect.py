"""``glmc inspect`` and ``glmc explain``: every view, for people and for machines."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmc.command.cli import main
from glmc.compile.driver import compile_model
from glmc.shell.terminal import fold, paint, show
from support import GOLDEN, ROOT

Compile = Callable[[Path], Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ROOT / "examples" / "configs" / "chatglm3-6b.json"
    return compile_model(config, tmp_path_factory.mktemp("inspect") / "build")


def run(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    assert main([str(part) for part in command]) == 0
    return capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str], *command: object) -> Any:
    return json.loads(run(capsys, *command, "--json"))


def refusal(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    assert main([str(part) for part in command]) == 2
    return capsys.readouterr().err


def line_of(build: Path, text: str) -> int:
    lines = (build / "model.py").read_text().splitlines()
    return next(at for at, line in enumerate(lines, 1) if text in line)


def test_memory_at_given_lengths(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = facts(capsys, "inspect", build, "--lengths", "1000,131072")
    each = 28 * 2 * 2 * 128 * 2
    assert found["state_bytes"] == {"1000": 1000 * each, "131072": 131072 * each}
    assert found["weight_bytes"] == 2 * 6_243_584_000
    assert found["kinds"][0]["parameters"] == 203_960_832
    assert "117 MB at 4,096, 235 MB at 8,192" in run(capsys, "inspect", build)
    assert "expected lengths" in refusal(capsys, "inspect", build, "--lengths", "long")


def test_config_keys(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "inspect", build, "--keys")
    assert "kv_channels" in text
    assert "ignored: divides the scores and multiplies them back" in text
    assert "rmsnorm" in facts(capsys, "inspect", build, "--keys")["config_keys"]


def test_a_diff_shows_what_went_came_and_why(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = ("--diff", "merge-gate-up", "act-mul")
    text = run(capsys, "inspect", build, *stages)
    assert "\n- %ff: f16[B,T,13696] = mul(%act, %up)\n" in text
    assert "\n+ %ff: f16[B,T,13696] = act_mul(%gate_up, fn=silu)\n" in text
    assert "rms_norm" not in text, "what stayed is left out"
    assert "act-mul: layer: split + activation + mul became act_mul" in text
    (graph,) = facts(capsys, "inspect", build, *stages)["graphs"]
    assert [mark for mark, _ in graph["lines"] if mark != " "] == ["-", "-", "-", "+"]
    same = run(capsys, "inspect", build, "--diff", "add-rms-norm", "add-layer-norm")
    assert "no difference" in same
    assert "no graphs" in refusal(
        capsys, "inspect", build, "--diff", "model", "act-mul"
    )
    assert "has no stage" in refusal(capsys, "inspect", build, "--diff", "a", "act-mul")


def test_one_op(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, "inspect", build, "--op", "rms_norm_linear")
    assert [use["since"] for use in found["uses"]] == ["rms-norm-linear"] * 3
    found = facts(capsys, "inspect", build, "--op", "linear_add")
    assert [use["since"] for use in found["uses"]] == ["linear-add"] * 2
    text = run(capsys, "inspect", build, "--op", "%ctx")
    assert "layer x 28, 2 launches, since qkv-attention" in text
    assert "did you mean linear" in refusal(
        capsys, "inspect", build, "--op", "linear_ad"
    )
    assert "fused away" in refusal(capsys, "inspect", build, "--op", "kv_write")


def test_weights(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, "inspect", build, "--weights")
    assert "layers.{0:28}.qkv: f16[4608,4096]\n  transformer.encoder.layers" in text
    llama = ROOT / "examples" / "configs" / "llama-3.1-70b.json"
    out = compile_model(llama, tmp_path / "llama")
    rows = facts(capsys, "inspect", out, "--weights")["weights"]
    (qkv,) = [row for row in rows if row["path"].endswith(".qkv")]
    assert [piece["rows"] for piece in qkv["pieces"]] == [
        [0, 8192],
        [8192, 9216],
        [9216, 10240],
    ]
    text = run(capsys, "inspect", out, "--weights")
    assert "  rows 8192:9216 = model.layers.{i}.self_attn.k_proj.weight, whole" in text


def test_a_line_is_traced_to_the_config(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = line_of(build, "ops.qkv_attention(")
    found = facts(capsys, "inspect", build, "--trace", f"model.py:{number + 3}")
    assert found["ir"]["layer"].startswith("%ctx: f16[B,T,4096] = qkv_attention(")
    passes = [step["pass"] for step in found["history"]]
    assert passes == ["qkv-attention", "merge-qkv", "lowered"]
    assert len(found["history"][0]["from"]) == 8
    assert [place.partition(":")[0] for place in found["implemented"]] == [
        "reference.py",
        "kernels.py",
    ]
    spec = {line["entry"]: line for line in found["spec"]}
    heads = spec["ops.attn.heads"]
    assert heads["decides"] == ["heads=32"]
    assert heads["keys"] == {"num_attention_heads": 32}
    place = heads["where"].removeprefix("specs/").split(":")
    lines = (ROOT / "specs" / place[0]).read_text().splitlines()
    assert lines[int(place[1]) - 1].strip() == "heads: =H"


def test_a_line_with_one_of_two_norms_is_traced_to_its_own(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = line_of(build, "ff = ops.rms_norm_linear(")
    text = run(capsys, "inspect", build, "--trace", f"model.py:{number}")
    assert "@post_attention_layernorm" in text
    assert "@input_layernorm" not in text
    assert "layernorm_epsilon = 1e-05" in text


def test_every_op_and_parameter_of_a_module_can_be_traced(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (build / "model.py").read_text().splitlines()
    traced = [
        n for n, line in enumerate(text, 1) if "ops." in line or "= parameter(" in line
    ]
    assert len(traced) > 15
    for number in traced[::4]:
        found = facts(capsys, "inspect", build, "--trace", f"model.py:{number}")
        assert "ir" in found or "param" in found


def test_a_key_is_traced_to_the_lines_it_decides(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = facts(capsys, "inspect", build, "--trace", "layernorm_epsilon")
    assert found["fate"]["status"] == "consumed"
    assert len(found["emitted"]) == 3
    assert all("eps=1e-05" in line["emitted"] for line in found["emitted"])
    assert "model.py:LINE" in refusal(capsys, "inspect", build, "--trace", "nothing")
    assert "no op" in refusal(capsys, "inspect", build, "--trace", "model.py:1")


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert "%ff = act_mul(%gate_up, fn=$fn)" in run(capsys, "explain", "act-mul")
    assert "where a norm can take it" in run(capsys, "explain", "carry-residual")
    op = facts(capsys, "explain", "qkv_attention")
    assert op["made_by"] == ["qkv-attention"]
    assert op["operands"]["cos"] == "value, may be absent"
    text = run(capsys, "explain", "multi_query_group_num")
    assert "chatglm: the value where it is absent (specs/chatglm.yaml" in text
    assert text.rstrip().endswith(": 1")
    contents = run(capsys, "explain")
    assert "merge-qkv" in contents
    assert "GLMC012  A config has a key that its spec says nothing about" in contents
    assert "did you mean rope" in refusal(capsys, "explain", "ropee")


def test_a_build_of_before_has_less_to_trace(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spec lines came later than manifests."""
    import shutil

    old = build.parent / "old"
    shutil.copytree(build, old)
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["spec_lines"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    number = line_of(old, "ops.qkv_attention(")
    text = run(capsys, "inspect", old, "--trace", f"model.py:{number}")
    assert "qkv-attention" in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_and_width_only_where_there_is_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (
        '  %x: f16[B,T,4096] = linear(%h, @w)  # a line that is longer than others "s"'
    )
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    piped, terminal = io.StringIO(), Terminal()
    show(text, piped)
    show(text, terminal)
    assert piped.getvalue() == text + "\n"
    assert "\x1b[36m%x\x1b[0m" in terminal.getvalue()
    assert len(terminal.getvalue().splitlines()) == 2
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    show(text, plain)
    assert "\x1b" not in plain.getvalue()
    assert all(len(line) <= 60 for line in plain.getvalue().splitlines())


def test_folding_loses_nothing() -> None:
    line = "  " + ", ".join(f"%value_{n}: f16[B,T,{n}]" for n in range(40))
    for width in (30, 60, 100):
        lines = fold(line, width)
        assert " ".join(part.strip() for part in lines) == line.strip()
        assert all(len(part) <= width for part in lines)
    assert fold("x" * 200, 80) == ["x" * 200], "what has no blanks stays whole"
    assert paint("+ %x").startswith("\x1b[32m")


def test_a_look_imports_nothing_heavy(compiled: Compile) -> None:
    build = compiled(GOLDEN / "chatglm3")
    python = [sys.executable, "-X", "importtime"]
    command = [*python, "-m", "glmc", "inspect", str(build)]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    assert b" pydantic\n" in done.stderr, "imports are listed"
    assert b" torch\n" not in done.stderr
    assert b" networkx\n" not in done.stderr
