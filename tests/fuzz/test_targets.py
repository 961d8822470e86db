"""Any file in a model folder, a spec, a dump or a build: an answer or a GlmcError."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from glmc.command.commands import ledger_of
from glmc.compile.driver import Options, compile_files
from glmc.compile.dumps import rebuild
from glmc.compile.writing import write_build
from glmc.files.manifest import MANIFEST
from glmc.look import inspecting, tracing, views
from glmc.look.builds import Build
from glmc.report.page import page
from support import GOLDEN, ROOT, fuzzing
from support.configs import FAMILIES
from support.fuzzing import Target, faults, mutate_json, mutate_text

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or not hasattr(os, "fork"),
    reason="limits of a child process, as Linux has them",
)

FOLDER = GOLDEN / "chatglm3"
CHATGLM = (FOLDER / "config.json").read_text()
QUICK, SLOW = 60, 2000


def parses(files: Mapping[str, str | bytes]) -> None:
    """Whatever was emitted is Python and JSON."""
    for name, text in files.items():
        if name.endswith(".py"):
            ast.parse(text, name)
        elif name.endswith(".json"):
            json.loads(text)


def compile_config(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text, "utf-8", errors="surrogatepass")
    parses(compile_files(folder / "config.json", Options()).files)


def compile_spec(text: str, folder: Path) -> None:
    (folder / "mine.yaml").write_text(text, "utf-8", errors="surrogatepass")
    whose = text.partition("\n")[0].removeprefix("# ")
    config = FAMILIES.get(whose, FAMILIES["llama"])
    (folder / "config.json").write_text(json.dumps(config))
    options = Options(spec=folder / "mine.yaml")
    parses(compile_files(folder / "config.json", options).files)


def compile_model_dump(text: str, folder: Path) -> None:
    (folder / "0-model.glmc").write_text(text, "utf-8", errors="surrogatepass")
    parses(rebuild(folder / "0-model.glmc"))


def compile_program_dump(text: str, folder: Path) -> None:
    (folder / "0-model.glmc").write_text(BUILT["ir/0-model.glmc"])
    (folder / "9-mine.glmc").write_text(text, "utf-8", errors="surrogatepass")
    parses(rebuild(folder / "9-mine.glmc"))


def look_at(build: Build) -> None:
    """Run the commands that show a build."""
    inspecting.summary_text(inspecting.summary(build))
    inspecting.keys_text(inspecting.summary(build), build.manifest["config"])
    ledger_of(build)
    views.weights_text(views.weight_facts(build))
    for key in list(build.manifest["config_keys"])[:3]:
        tracing.trace(build, key)


def read_manifest_back(text: str, folder: Path) -> None:
    read_back(MANIFEST, text, folder)


def read_ledger_back(text: str, folder: Path) -> None:
    read_back("ir/ledger.json", text, folder)


def read_back(name: str, text: str, folder: Path) -> None:
    out, rarely = folder / "build", len(text) % 8 == 0
    if not out.exists():
        write_build(out, BUILT, force=False)
    (out / name).write_text(text, "utf-8", errors="surrogatepass")
    if rarely:  # what takes longest
        write_build(out, BUILT, force=True)
        shutil.rmtree(folder / "build.bak", ignore_errors=True)
        (out / name).write_text(text, "utf-8", errors="surrogatepass")
    look_at(Build(out))
    if rarely:
        page(Build(out))


BUILT = {
    name: text if isinstance(text, str) else text.decode()
    for name, text in compile_files(FOLDER, Options()).files.items()
}
CONFIGS = tuple(json.dumps(FAMILIES[name]) for name in sorted(FAMILIES)[::12])
SPECS = tuple(
    f"# {name}\n" + (ROOT / "specs" / f"{name}.yaml").read_text()
    for name in ("llama", "bert", "mistral", "qwen2", "gemma2", "gpt2")
    if name in FAMILIES
)
PROGRAMS = tuple(
    text
    for name, text in BUILT.items()
    if name.endswith(".glmc") and name != "ir/0-model.glmc"
)
TARGETS = (
    Target("config", (CHATGLM, *CONFIGS), mutate_json, compile_config),
    Target("spec", SPECS, mutate_text, compile_spec),
    Target("model", (BUILT["ir/0-model.glmc"],), mutate_text, compile_model_dump),
    Target("program", PROGRAMS, mutate_text, compile_program_dump),
    Target("manifest", (BUILT[MANIFEST],), mutate_json, read_manifest_back),
    Target("ledger", (BUILT["ir/ledger.json"],), mutate_json, read_ledger_back),
)


def none_fails(target: Target, count: int, folder: Path) -> None:
    found, answers = faults(target, count, folder)
    assert not found, "\n\n".join(map(str, found[:5]))
    assert answers, "nothing was understood"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_inputs_end_in_an_answer_or_an_error(target: Target, tmp_path: Path) -> None:
    none_fails(target, QUICK, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_many_times_as_many(target: Target, tmp_path: Path) -> None:
    none_fails(target, SLOW, tmp_path)


def _planted(text: str, folder: Path) -> None:
    match text:
        case "killed":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "large":
            bytearray(fuzzing.MEMORY * 2)
        case "long":
            while True:
                pass
        case "hangs":
            time.sleep(60)
        case "trace":
            json.loads("{")


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("killed", "ended with -11"),
        ("large", "MemoryError"),
        ("long", "TimeoutError"),
        ("hangs", "it hangs"),
        ("trace", "JSONDecodeError"),
    ],
)
def test_control_what_is_no_answer_is_found(
    planted: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "SECONDS", 1.0)
    if planted == "hangs":
        monkeypatch.setattr(fuzzing, "PATIENCE", 2)
    target = Target("planted", ("fine", planted, "good"), mutate_text, _planted)
    found, answers = faults(target, 3, tmp_path)
    assert [(fault.number, fault.text) for fault in found] == [(1, planted)]
    assert said in found[0].told
    assert answers == 2
