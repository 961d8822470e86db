"""Equal inputs give byte-identical builds, formatted and clean."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import EXAMPLES, GOLDEN, ROOT
from support.cli import glmc
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

CONFIGS = {
    "all-minilm-l6-v2": EXAMPLES / "configs/all-minilm-l6-v2.json",
    "chatglm3-6b": EXAMPLES / "configs/chatglm3-6b.json",
    "llama-3.1-70b": EXAMPLES / "configs/llama-3.1-70b.json",
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` by its relative name."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.mark.parametrize("name", first(2, ["golden", *CONFIGS]))
def test_byte_identical(name: str, tmp_path: Path) -> None:
    builds = []
    for seed in ("0", "4711"):
        source = CONFIGS.get(name, GOLDEN / "chatglm2")
        folder = tmp_path / f"elsewhere-{seed}"
        folder.mkdir()
        # The same model at two places: where it lies must not show either.
        place = folder / "model"
        if source.is_dir():
            shutil.copytree(source, place)
        else:
            place.mkdir()
            shutil.copy(source, place / "config.json")
        run = glmc(
            "compile", place, "-o", folder / "build", cwd=folder, PYTHONHASHSEED=seed
        )
        assert run.returncode == 0, run.stderr
        builds.append(contents(folder / "build"))
    assert builds[0].keys() == builds[1].keys()
    differing = [file for file in builds[0] if builds[0][file] != builds[1][file]]
    assert differing == []


def test_compiling_over_an_untouched_build(tmp_path: Path) -> None:
    build = tmp_path / "build"
    assert glmc("compile", GOLDEN / "chatglm3", "-o", build).returncode == 0
    before = contents(build)
    assert glmc("compile", GOLDEN / "chatglm3", "-o", build).returncode == 0
    assert contents(build) == before


def test_an_edited_build_is_not_lost(tmp_path: Path) -> None:
    build = tmp_path / "build"
    assert glmc("compile", GOLDEN / "chatglm3", "-o", build).returncode == 0
    edited = build / "model.py"
    edited.write_text(edited.read_text() + "# mine\n")
    run = glmc("compile", GOLDEN / "chatglm3", "-o", build)
    assert run.returncode == 2
    assert "model.py" in run.stderr
    assert edited.read_text().endswith("# mine\n")
    assert glmc("compile", GOLDEN / "chatglm3", "-o", build, "--force").returncode == 0
    assert not edited.read_text().endswith("# mine\n")
    kept = [f for f in tmp_path.rglob("model.py*") if "# mine" in f.read_text()]
    assert kept, "--force keeps a backup of what was edited"


STYLES = (
    "llama-gqa",
    "llama-biases",
    "llama-longrope",
    "mistral-window",
    "qwen2-window",
    "qwen3-window",
    "glm-partial",
    "gpt2-tied",
    "chatglm3",
    *CONFIGS,
)


@pytest.mark.parametrize("name", STYLES)
def test_emitted_code_is_clean(
    name: str,
    tiny: Callable[[Variant], Tiny],
    compiled: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    """With ruff's own defaults, as a user has them, and with this project's rules."""
    if name in CONFIGS:
        build = compiled(CONFIGS[name])
    else:
        known = name in BY_NAME
        build = compiled(tiny(BY_NAME[name]).checkpoint if known else GOLDEN / name)
    shutil.copytree(build, tmp_path / "build")
    ours = ("--config", str(ROOT / "pyproject.toml"))
    for command in (
        ("format", "--check", "--isolated"),
        ("check", "--isolated"),
        ("check", *ours),
    ):
        run = ruff(*command, "build", cwd=tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr


def ruff(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--no-cache"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_control_ruff_reads_a_folder_called_build(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "x.py").write_text("import os\nx=1\n")
    assert ruff("check", "--isolated", "build", cwd=tmp_path).returncode == 1
    formatted = ruff("format", "--check", "--isolated", "build", cwd=tmp_path)
    assert formatted.returncode == 1
