"""Dumps that are read back: printed again, rewritten, edited, built, refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from glmc.command.cli import main
from glmc.compile.dumps import is_model, rebuild
from glmc.files.reading import read_model, read_program
from glmc.ir.errors import GlmcError
from glmc.ir.lower import lower
from glmc.ir.text import print_model, print_program
from glmc.ir.text.lexer import tokenize
from glmc.look.builds import Build
from support import GOLDEN, ROOT, builds
from support.models import chatglm
from support.stages import run

Compile = Callable[[Path], Path]
FOLDER = GOLDEN / "chatglm3"


@pytest.fixture
def build(compiled: Compile) -> Path:
    return compiled(FOLDER)


def output(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    assert main([str(part) for part in command]) == 0
    return capsys.readouterr().out


def refusal(text: str, old: str, new: str) -> str:
    assert old in text, "the dump does not say this, so nothing would be wrong"
    with pytest.raises(GlmcError) as error:
        read_program(text.replace(old, new, 1), "F")
    return str(error.value)


def test_every_dump_prints_as_it_was(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dumps = sorted((build / "ir").glob("*.glmc"))
    assert len(dumps) >= 6
    for dump in dumps:
        assert output(capsys, "ir", dump) == dump.read_text()


def test_a_stage_that_changed_nothing_is_read_from_the_dump_that_holds_it(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Build(build)
    before, name = found.stages["merge-gate-up"], "keep-quantized"
    assert found.stages[name]["file"] == before["file"]
    assert found.dump(name) == found.dump("merge-gate-up")
    files = {stage["file"] for stage in found.stages.values()}
    dumps = sorted((build / "ir").glob("*.glmc"))
    assert files == {f"ir/{dump.name}" for dump in dumps}
    texts = [dump.read_text() for dump in dumps]
    assert len(set(texts)) == len(texts)
    missing = build / "ir" / f"4-{name}.glmc"
    assert not missing.exists()
    assert output(capsys, "ir", missing) == found.dump(name)
    assert main(["ir", str(build / "ir" / "4-keep-quantised.glmc")]) == 2
    assert "4-keep-quantised.glmc cannot be read" in capsys.readouterr().err
    assert "no difference" in output(
        capsys, "inspect", build, "--diff", "merge-gate-up", name
    )


def test_passes_by_name_and_all_of_them(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lowered, out = build / "ir" / "1-lowered.glmc", tmp_path / "out.glmc"
    last = (build / "ir" / "13-qkv-attention.glmc").read_text()
    assert output(capsys, "ir", lowered, "--pipeline") == last
    assert output(capsys, "ir", build / "ir" / "0-model.glmc", "--pipeline") == last
    assert main(["ir", str(lowered), "--passes", "merge-gate-up,act-mul"]) == 0
    said = capsys.readouterr()
    assert "act_mul(%gate_up, fn=silu)" in said.out
    assert "rms_norm(" in said.out
    assert "applied act-mul: layer %ff" in said.err
    assert output(capsys, "ir", lowered, "--pipeline", "-o", out) == ""
    assert out.read_text() == last
    facts = json.loads(output(capsys, "ir", lowered, "--pipeline", "--json"))
    assert facts["text"] == last
    assert {entry["status"] for entry in facts["ledger"]} == {"applied", "absent"}


def test_the_standard_input(
    build: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (build / "ir" / "1-lowered.glmc").read_text()
    monkeypatch.setattr("sys.stdin", io.StringIO("# mine\n" + text))
    assert output(capsys, "ir", "-") == text


def test_an_unknown_pass_is_told_with_the_known_ones(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = str(build / "ir" / "1-lowered.glmc")
    assert main(["ir", dump, "--passes", "fuse-all"]) == 2
    assert "the passes are merge-qkv" in capsys.readouterr().err
    assert main(["ir", dump + "x"]) == 2
    assert "cannot be read" in capsys.readouterr().err


# What is edited, and the line, column and expectation it must be told with.
WRONG = [
    (
        "rms_norm_linear(%x, @input_layernorm,",
        "rms_norm_linear(%h, @input_layernorm,",
        "line 20, column 40: layer: rms_norm_linear reads",
    ),
    (
        "@input_layernorm, @qkv,",
        "@input_layernorm, @qvk,",
        "layer: rms_norm_linear reads undefined @qvk; did you mean qkv?",
    ),
    ("%ff: f32[B,T,104]", "%ff: f32[B,T,9]", "the op gives f32[B,T,104]"),
    ("scale=0.25", "scale=", "line 21, column 109: expected a value, found ','"),
    ("scale=0.25", "scala=0.25", "qkv_attention has no argument scala="),
    ("scale=0.25", "scale=wide", "scale: Input should be a valid number"),
    ("style=interleaved", "style=spiral", "'half' or 'interleaved'"),
    ("linear_add(%ff", "linear_ad(%ff", "line 24, column 24: there is no op linear_ad"),
    ("return %out", "return %uot", "line 25, column 10: layer: returns"),
    ("@dense: f32[64,64]", "@dense: f32[64,6]", "line 16, column 3: layer: @dense"),
    ("[0:3]", "[0:2.5]", "expected a whole number, found 2.5"),
    ("[0:3]", "[0:2,3]", "blocks cover layers [0, 1, 3], not each exactly once"),
    ("%x1: f32", "%ctx: f32", "line 22, column 3: layer: %ctx is defined twice"),
    ("%logits: f32[B,T,160]", "%logits:", "expected a type, found '='"),
]


@pytest.mark.parametrize(("old", "new", "told"), WRONG)
def test_a_wrong_edit_is_told_with_its_place(
    old: str, new: str, told: str, build: Path
) -> None:
    text = (build / "ir" / "13-qkv-attention.glmc").read_text()
    message = refusal(text, old, new)
    assert told in message
    assert message.startswith("F: line ")


def test_recipes_that_cannot_be_are_told(build: Path) -> None:
    text = (build / "ir" / "1-lowered.glmc").read_text()
    gate = '"mlp.dense_h_to_4h.weight"[208,64].slice(0, 0, 104)'
    stored = '"mlp.dense_h_to_4h.weight"[208,64]'
    for wrong, told in [
        (f"{stored}.slice(0, 200, 304)", "[208, 64] has no 200:304 in dimension 0"),
        (f"{stored}.slice(2, 0, 104)", "has no 0:104 in dimension 2"),
        (f"{stored}.view(104, 64)", "[208, 64] cannot be viewed as [104, 64]"),
        (f"{stored}.permute(0, 0)", "cannot be permuted by [0, 0]"),
        (f"cat({stored}, {stored}, dim=2)", "cannot be joined along dimension 2"),
        (f"{stored}.slice(0, 0, 100)", "is assembled as [100, 64]"),
    ]:
        assert told in refusal(text, gate, wrong)


def test_no_edit_makes_a_stack_trace() -> None:
    """Every few tokens replaced by something else: read, or refused in a sentence."""
    *_, last = run(lower(chatglm()))
    told = []
    for text in (print_model(chatglm()), print_program(last.program)):
        for token in tokenize(text)[:-1:7]:
            for new in ("", "%x", "@qkv", "1.5", "-1", '"s"', "none", ",", "(", "cat"):
                end = token.at + len(token.text)
                told.append(outcome(f"{text[: token.at]} {new} {text[end:]}"))
    assert sum(message is not None for message in told) > 500
    assert all(message is None or message.startswith("F: line ") for message in told)


def outcome(text: str) -> str | None:
    """None where a dump can be read, else what is told."""
    try:
        if is_model(text):
            read_model(text, "F")
        else:
            read_program(text, "F")
    except GlmcError as error:
        return str(error)
    return None


def test_a_lowered_dump_builds_the_unfused_model(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plain"
    said = output(
        capsys, "compile", "--from-ir", build / "ir/1-lowered.glmc", "-o", out
    )
    assert "built from" in said
    assert "ops.rms_norm(" in (out / "model.py").read_text()
    numbers = FOLDER / "golden.safetensors"
    command = ["verify", out, "--weights", FOLDER, "--against", numbers]
    assert "within 0.0001" in output(capsys, *command, "--device", "cpu")
    facts = json.loads(output(capsys, "inspect", out, "--json"))
    assert [stage["name"] for stage in facts["stages"]] == ["edited"]
    assert facts["config_keys"]["num_layers"]["status"] == "consumed"


def test_an_edit_reaches_the_emitted_code(build: Path, tmp_path: Path) -> None:
    for dump in ("0-model.glmc", "13-qkv-attention.glmc"):
        text = (build / "ir" / dump).read_text()
        (tmp_path / dump).write_text(text.replace("fn=silu", "fn=relu"))
    files = rebuild(tmp_path / "13-qkv-attention.glmc")
    assert 'fn="relu"' in files["model.py"]
    same = rebuild(build / "ir" / "13-qkv-attention.glmc")
    for name in ("weights.py", "kernels.py", "reference.py"):
        assert same[name] == (build / name).read_text()


def test_a_model_dump_goes_through_the_pipeline(build: Path, tmp_path: Path) -> None:
    files = rebuild(build / "ir" / "0-model.glmc", disable=["linear-act"])
    assert "ops.qkv_attention(" in files["model.py"]
    assert "ops.act_mul(" in files["model.py"]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    builds.load(tmp_path, FOLDER)


def test_what_does_not_belong_together_is_refused(build: Path, tmp_path: Path) -> None:
    text = (build / "ir" / "13-qkv-attention.glmc").read_text()
    dump = tmp_path / "mine.glmc"
    dump.write_text(text)
    with pytest.raises(GlmcError, match=r"copy 0-model\.glmc"):
        rebuild(dump)
    model = (build / "ir" / "0-model.glmc").read_text()
    (tmp_path / "0-model.glmc").write_text(model)
    dump.write_text(text.replace("[0:3]", "[0:2]"))
    with pytest.raises(GlmcError, match=r"number of layers \(2\)"):
        rebuild(dump)
    dump.write_text(text.replace("%ff", "%lambda"))
    with pytest.raises(GlmcError, match="'lambda' cannot be a name"):
        rebuild(dump)
    named = model.replace('name="chatglm"', 'name="x\\"\\"\\"\\nimport os"')
    assert named != model
    (tmp_path / "0-model.glmc").write_text(named)
    for path in (tmp_path / "0-model.glmc", tmp_path / "mine.glmc"):
        with pytest.raises(GlmcError, match="cannot be a name"):
            rebuild(path)


def test_options_that_would_have_no_effect(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = str(build / "ir" / "0-model.glmc")
    assert main(["compile", "--from-ir", dump, "--set", "num_layers=5"]) == 2
    assert "--set would have no effect" in capsys.readouterr().err
    assert main(["compile"]) == 2
    assert "nothing to compile" in capsys.readouterr().err


def test_the_dump_of_an_example_is_read_back() -> None:
    from glmc.compile.driver import Options, compile_files

    config = ROOT / "examples" / "configs" / "llama-3.1-70b.json"
    files = compile_files(config, Options()).files
    for name, text in files.items():
        if name.endswith(".glmc"):
            assert isinstance(text, str)
            assert outcome(text) is None
            again = (
                print_model(read_model(text, name))
                if is_model(text)
                else print_program(read_program(text, name))
            )
            assert again == text
