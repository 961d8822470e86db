"""Targets: each is a value, and a new one is a folder and a row."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc.backends.target import TARGETS, every_pass, target
from glmc.command.cli import main
from glmc.compile.driver import Options, compile_files
from glmc.frontends.spec.library import builtin_configs
from glmc.ir.errors import GlmcError, OptionsDisagreeError, UnknownDeviceError
from glmc.ir.op import registry
from glmc.look.builds import Build
from glmc.use.running import import_build
from support import GOLDEN, ROOT

CHATGLM3 = GOLDEN / "chatglm3"
# Words of machines and their compilers, which only targets know.
MACHINES = re.compile(
    r"launch|\bgpus?\b|\bcuda|\bhip\b|triton|\bwarps?\b|\btiles?\b|\bkernels?\b",
    re.IGNORECASE,
)
WORDS = re.compile(r"\bwords?\b", re.IGNORECASE)
# Sentences for the users of every room; and how published files hold codes in int32.
OF_ALL_ROOMS = ("ir/errors/",)
PUBLISHED = ("ir/recipe.py", "ir/leaves.py", "ir/lower/storage.py")


def named(pattern: re.Pattern[str], text: str) -> list[str]:
    """Return what of a text names machines; "in words" is English."""
    plain = re.sub(r"\b(in|says so in) words\b", "", text)
    return pattern.findall(plain)


def test_the_ir_names_no_machine() -> None:
    wrong = {}
    for file in sorted((ROOT / "ir").rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        if path.startswith(OF_ALL_ROOMS):
            continue
        found = named(MACHINES, file.read_text())
        if path not in PUBLISHED:
            found += named(WORDS, file.read_text())
        if found:
            wrong[path] = found
    assert wrong == {}


@pytest.mark.parametrize(
    "line",
    ["launches = 2", "a GPU has", "fills words of 32 bits", "tiles of 64 codes"],
)
def test_control_a_machine_that_is_named_is_found(line: str) -> None:
    assert named(MACHINES, line) or named(WORDS, line)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_the_value_of_its_row(name: str) -> None:
    on = target(name)
    assert on.name == name
    assert {*on.launched, *on.launched_by_a_token} <= set(registry())
    assert on.launches(["split", "heads", "linear", "linear"]) == 2
    names = [one.name for one in on.passes()]
    assert len(set(names)) == len(names)
    assert names[:2] == ["merge-qkv", "merge-gate-up"]


def test_a_target_that_is_none_is_told_with_those_there_are() -> None:
    with pytest.raises(UnknownDeviceError, match=r"'gpu'.* any, cpu, cuda, hip\."):
        compile_files(CHATGLM3, Options(target="gpu"))


def test_a_cpu_has_other_fusions_than_a_gpu() -> None:
    applied, ops = {}, {}
    for name in ("cpu", "cuda"):
        made = compile_files(CHATGLM3, Options(target=name))
        entries = [entry for stage in made.stages for entry in stage.ledger]
        applied[name] = {e.fusion for e in entries if e.status == "applied"}
        graphs = made.stages[-1].program.graphs
        ops[name] = {op.mnemonic for graph in graphs for op in graph.ops}
    assert applied["cpu"] == {"merge-qkv", "merge-gate-up", "act-mul"}
    assert applied["cuda"] > {"merge-qkv", "linear-act", "qkv-attention"}
    assert "qkv_attention" not in ops["cpu"]
    assert "qkv_attention" in ops["cuda"]


@pytest.mark.parametrize("name", builtin_configs())
def test_every_config_compiles_for_each_kind_of_machine(name: str) -> None:
    made = {on: compile_files(name, Options(target=on)) for on in ("cpu", "hip")}
    assert "kernels.py" in made["hip"].files
    code = [text for path, text in made["cpu"].files.items() if path.endswith(".py")]
    assert not any("triton" in str(text).lower() for text in code)
    assert {row.where for row in made["cpu"].placed} <= {"kernel", "torch", "reference"}


def test_what_only_a_gpu_has_is_refused_for_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(UnknownDeviceError, match=r"cuda:90.*for cpu:avx512bf16"):
        compile_files(CHATGLM3, Options(target="cpu", aot=("cuda:90",)))
    with pytest.raises(OptionsDisagreeError, match=r"target cpu .* no kernels"):
        compile_files(CHATGLM3, Options(target="cpu", kernels=("linear=x.py",)))
    with pytest.raises(UnknownDeviceError, match=r"cuda:90.*for hip:gfx90a"):
        compile_files(CHATGLM3, Options(target="hip", aot=("cuda:90",)))
    with pytest.raises(GlmcError, match=r"qkv-attention: the passes of .* cpu are"):
        compile_files(CHATGLM3, Options(target="cpu", disable=("qkv-attention",)))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "toy", "support.toy.target:TOY")


def glmc(capsys: pytest.CaptureFixture[str], *command: object) -> Any:
    assert main([str(part) for part in (*command, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_third_target_is_a_folder_and_a_row(
    toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "toyed"
    command = ["compile", CHATGLM3, "-o", out, "--target", "toy", "--aot", "toy:1"]
    facts = glmc(capsys, *command)
    assert (facts["target"], facts["aot"]) == ("toy", [{"chip": "toy:1"}])
    assert (out / "aot" / "toy.so").read_bytes() == b"__init__.py for toy:1 in f32"
    build = Build(out)
    assert build.target.name == "toy"
    assert list(build.stages)[-1] == "toy-turn"
    assert (out / "toy_ops.py").is_file()
    assert not (out / "kernels.py").exists()
    turned = [row for row in build.ledger if row.fusion == "toy-turn"]
    assert turned[0].status == "applied"
    places = {row.op: row.where for row in build.placements}
    assert (places["add"], places["linear"]) == ("kernel", "torch")
    adds = glmc(capsys, "inspect", out, "--op", "add")
    assert (adds["on"], adds["units"]) == ("a toy", "turns")
    assert {use["launches"] for use in adds["uses"]} == {3}
    cost = glmc(capsys, "inspect", out, "--cost", "cpu")
    assert {op["launches"] for op in cost["ops"] if op["op"] == "add"} == {3}
    assert glmc(capsys, "explain", "toy-turn")["targets"] == ["toy"]
    lowered = out / "ir" / "1-lowered.glmc"
    dump = glmc(capsys, "ir", lowered, "--passes", "toy-turn", "--target", "toy")
    assert {entry["fusion"] for entry in dump["ledger"]} == {"toy-turn"}
    # Three turns an add, and it makes as many as it takes away.
    assert {entry["launches_saved"] for entry in dump["ledger"]} == {0}
    again = tmp_path / "again"
    glmc(capsys, "compile", "--from-ir", out / "ir" / "0-model.glmc", "-o", again)
    assert Build(again).target.name == "toy"
    assert (again / "toy_ops.py").is_file()


def test_a_build_runs_on_what_its_target_gave_it(toy: None, tmp_path: Path) -> None:
    out = tmp_path / "toyed"
    assert main(["compile", str(CHATGLM3), "-o", str(out), "--target", "toy"]) == 0
    build = import_build(out)
    model = build.load(CHATGLM3)
    ids = torch.tensor([[5, 6, 7]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits = model(ids).logits
    operations = importlib.import_module(f"{build.__name__}.toy_ops")
    machine = importlib.import_module(f"{build.__name__}.toy_machine")
    assert operations.CALLS
    assert machine.TOLD == ["cpu", "toy_ops"]
    model.ops = importlib.import_module(f"{build.__name__}.reference")
    assert torch.equal(model(ids).logits, logits)


@pytest.fixture(scope="module")
def of_a_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cpu") / "build"
    assert main(["compile", str(CHATGLM3), "-o", str(out), "--target", "cpu"]) == 0
    return out


def test_a_build_for_cpus_has_nothing_of_a_gpu(of_a_cpu: Path) -> None:
    files = {path.relative_to(of_a_cpu).as_posix() for path in of_a_cpu.rglob("*.py")}
    gpus = {"kernels.py", "tuning.py", "precompiled.py", "graphs.py", "gpu.py"}
    assert files & gpus == set()
    told = "".join((of_a_cpu / file).read_text() for file in files)
    assert "triton" not in told.lower()
    assert 'device="cuda"' not in (of_a_cpu / "__init__.py").read_text()


def test_a_build_for_cpus_answers_as_the_default_does(
    of_a_cpu: Path, compiled: Callable[[Path], Path]
) -> None:
    ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
    both = [import_build(out).load(CHATGLM3) for out in (of_a_cpu, compiled(CHATGLM3))]
    mine, others = (
        list(model.generate(ids, max_new_tokens=6, stream=True)) for model in both
    )
    assert all(map(torch.equal, mine, others))
    assert both[0].decode_path == "one call of C++ a token"


def test_what_only_a_gpu_can_is_refused_with_a_build_for_cpus(
    of_a_cpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", str(of_a_cpu), "--weights", str(CHATGLM3)]
    assert main(command) == 2
    assert "the target cpu, which has no kernels to tune" in capsys.readouterr().err
    assert main(["inspect", str(of_a_cpu)]) == 0
    text = capsys.readouterr().out
    assert "target      cpu: CPUs, by C++" in text
    assert "on a CPU\n" in text
    assert "launch" not in text
    assert "GPU" not in text


def test_a_build_for_cpus_is_proved_as_any_other(
    of_a_cpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    against = ["--weights", CHATGLM3, "--against", CHATGLM3 / "golden.safetensors"]
    assert main(["verify", *map(str, [of_a_cpu, *against])]) == 0
    assert main(["bisect", *map(str, [of_a_cpu, *against])]) == 0
    assert "no difference" in capsys.readouterr().out
    run = ["run", of_a_cpu, "--weights", CHATGLM3, "--prompt-ids", "5,6,7"]
    assert len(glmc(capsys, *run, "--max-new-tokens", 3)["new"]) == 3


def test_a_device_without_operations_gets_the_reference_and_a_sentence(
    tmp_path: Path,
) -> None:
    out = tmp_path / "gpus"
    assert main(["compile", str(CHATGLM3), "-o", str(out), "--target", "cuda"]) == 0
    build = import_build(out)
    model = build.load(CHATGLM3)
    with pytest.warns(UserWarning, match="target cuda and has no operations for 'cpu'"):
        model(torch.tensor([[5, 6, 7]]))
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        model(torch.tensor([[5, 6, 7]]))


def test_a_build_of_a_target_that_is_gone_says_so(
    toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "toyed"
    assert main(["compile", str(CHATGLM3), "-o", str(out), "--target", "toy"]) == 0
    monkeypatch.delitem(TARGETS, "toy")
    with pytest.raises(UnknownDeviceError, match="Unknown target 'toy'"):
        _ = Build(out).target


def test_a_pass_says_whose_it_is() -> None:
    found = {name: targets for name, (_, targets) in every_pass().items()}
    assert found["merge-qkv"] == ["any", "cpu", "cuda", "hip"]
    assert found["linear-act"] == ["any", "cuda", "hip"]
