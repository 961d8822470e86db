"""The commands on a good build: what they print, for people and for machines."""

import json
from pathlib import Path

import pytest

from glmc.command.cli import main
from glmc.look.builds import Build
from support import GOLDEN
from support.cli import python


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("commands") / "build"
    assert main(["compile", str(GOLDEN / "chatglm3"), "-o", str(out), "--strict"]) == 0
    return out


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr().out


def test_inspect_shows_sizes_stages_ir_and_ledger(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, "inspect", build)
    for words in ("3 x layer", "merge-qkv", "%ctx: f32[B,T,64]", "absent", "in all:"):
        assert words in text
    facts = json.loads(run(capsys, "inspect", build, "--json"))
    assert facts["layers"] == 3
    assert facts["parameters"] == 118_080
    assert facts["config_keys"]["ffn_hidden_size"]["status"] == "consumed"
    launches = [stage["launches"] for stage in facts["stages"]]
    assert launches[0] - launches[-1] == facts["launches_saved_per_call"] > 0


def test_a_key_that_is_off_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((GOLDEN / "chatglm3" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"mystery": 0}))
    out = tmp_path / "build"
    assert main(["compile", str(tmp_path), "-o", str(out)]) == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("glmc: note: The spec 'chatglm' does not know mystery (0)")
    facts = json.loads(run(capsys, "inspect", out, "--keys", "--json"))
    assert facts["config_keys"]["mystery"]["status"] == "off"
    assert "off: the spec does not know it" in run(capsys, "inspect", out, "--keys")


def test_inspect_prints_one_stage(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, "inspect", build, "--stage", "lowered")
    assert text == (build / "ir" / "1-lowered.glmc").read_text()
    main(["inspect", str(build), "--stage", "melted"])
    assert "it has model, lowered, merge-qkv" in capsys.readouterr().err


def test_inspect_prints_the_ledger(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(run(capsys, "inspect", build, "--ledger", "--json"))["ledger"]
    assert {row["status"] for row in rows} == {"applied", "absent"}
    assert all(row["reason"] for row in rows)


def test_check_accounts_for_every_tensor(
    build: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads(
        run(capsys, "check", build, "--weights", GOLDEN / "chatglm3", "--json")
    )
    assert (facts["ok"], facts["bound"], facts["shapes_checked"]) == (True, 24, True)
    assert sum(map(len, facts["waived"].values())) == 1


def test_run_generates(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", build, "--weights", GOLDEN / "chatglm3", "--prompt-ids", "1,2,3"]
    command += ["--max-new-tokens", 4, "--dtype", "float32", "--device", "cpu"]
    words = run(capsys, *command).split()
    assert json.loads(run(capsys, *command, "--json"))["new"] == list(map(int, words))


def test_strict_names_the_silent_fusion_and_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compile", str(GOLDEN / "chatglm3"), "-o", str(tmp_path / "build")]
    assert main([*command, "--strict", "--disable", "merge-qkv"]) == 2
    error = capsys.readouterr().err
    assert "qkv-attention (%v is made by linear, not split)" in error
    assert "--disable qkv-attention" in error
    assert not (tmp_path / "build").exists()
    assert main([*command, "--disable", "merge-qkv"]) == 0


def test_verify_passes_says_how_far_they_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = tmp_path / "build"
    command = ["compile", str(GOLDEN / "chatglm3"), "-o", str(build)]
    said = run(capsys, *command, "--verify-passes")
    stages = len(Build(build).stages) - 1  # the first is the Model
    assert f"{stages} stages agree" in said


@pytest.mark.parametrize("calls", [1, 2])
def test_the_process_ends_without_a_search_for_cycles(
    calls: int, tmp_path: Path
) -> None:
    """A hook registered before the command runs after those it registers."""
    script = (
        "import atexit, gc\n"
        "atexit.register(lambda: print('kept', gc.get_freeze_count() > 0))\n"
        "from glmc.command.cli import main\n" + "main(['configs'])\n" * calls
    )
    assert python(script, cwd=tmp_path).stdout.endswith("kept True\n")
