"""docs/extending.md, followed: its lists name all that an addition touches.

Each addition is made in a copy of the sources, and what it needs beyond the files that
the page lists would fail there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from support import ROOT
from support.configs import FAMILIES

PAGE = ROOT / "docs" / "extending.md"
ROOMS = ("ir", "frontends", "specs", "backends", "codegen_templates")
Edits = Mapping[str, tuple[str, str]]
"""Files to a text that stands in each once, and the text to put before it."""

OF_MLP: Edits = {
    "ir/model/sublayers.py": (
        "    act: ActivationName | Xielu\n",
        "    damping: PositiveFloat = 1.0\n",
    ),
    "ir/lower/sublayers.py": (
        "    if mlp.sub_norm:\n",
        "    if mlp.damping != 1.0:\n"
        "        ff = e.emit(ops.Scale, 'damped', x=ff, factor=mlp.damping)\n",
    ),
}
OF_ROUTER: Edits = {
    "ir/model/sublayers.py": (
        '    group_score: Literal["top2", "max"] = "top2"\n',
        "    damping: PositiveFloat = 1.0\n",
    ),
    "ir/lower/moe.py": (
        "    if router.expert_scale:\n",
        "    if router.damping != 1.0:\n"
        "        how = {'x': weights, 'factor': router.damping}\n"
        "        weights = e.emit(ops.Scale, 'damped', **how)\n",
    ),
}
MISH: Edits = {
    "ir/activations.py": ('    "silu",', '    "mish",\n'),
    "backends/torch/ops/elementwise.py": (
        '    "silu": F.silu,\n',
        '    "mish": F.mish,\n',
    ),
    "codegen_templates/kernels/act_mish.py.j2": (
        "",
        "@triton.jit\n"
        "def _mish(x):\n"
        "    # x · tanh(log(grown)), where grown is 1 + e^x.\n"
        "    grown = tl.exp(tl.minimum(x, 30.0)) + 1.0\n"
        "    return x * (1.0 - 2.0 / (grown * grown + 1.0))\n",
    ),
}


def listed(heading: str, page: str) -> set[str]:
    """The files that the page lists under a heading."""
    part = re.split(rf"^## {heading}$", page, flags=re.M)[1].split("\n## ")[0]
    rows = re.findall(r"^\| .* \|$", part, re.M)
    return {
        name for row in rows for name in re.findall(r"`([\w.]+/[\w/.]+\.\w+)`", row)
    }


def unlisted(edits: Edits, heading: str, page: str) -> set[str]:
    """The files of an addition that the page does not name."""
    return {name.replace("mish", "NAME") for name in edits} - listed(heading, page)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Edits], Path]:
    """A copy of the sources with an addition made, to be found before any other."""

    def make(edits: Edits) -> Path:
        shutil.copytree(ROOT / "glmc", tmp_path / "glmc")
        for room in ROOMS:
            shutil.copytree(ROOT / room, tmp_path / "glmc" / room)
        for name, (place, addition) in edits.items():
            path = tmp_path / "glmc" / name
            text = path.read_text() if path.exists() else ""
            assert text.count(place) == 1, f"{name} has {text.count(place)} {place!r}"
            path.write_text(text.replace(place, addition + place))
        return tmp_path

    return make


def run(tree: Path, *command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )


def compiled(
    tree: Path, family: str, keys: Mapping[str, object], *, spec: str
) -> subprocess.CompletedProcess[str]:
    """A compile whose passes are verified, by a spec of the changed language."""
    config, file = tree / "config.json", tree / "own.yaml"
    config.write_text(json.dumps({**FAMILIES[family], **keys}))
    file.write_text(f"extends: {family}\n{spec}\n")
    words = ("compile", config, "-o", tree / "build", "--force", "--spec", file)
    return run(tree, "-m", "glmc", *words, "--verify-passes")


@pytest.mark.parametrize(
    ("edits", "family", "op"),
    [
        pytest.param(OF_MLP, "llama", "mlp", id="of an MLP"),
        pytest.param(
            OF_ROUTER, "mixtral", "moe", id="of a router", marks=pytest.mark.slow
        ),
    ],
)
def test_an_option(
    changed: Callable[[Edits], Path], edits: Edits, family: str, op: str
) -> None:
    assert not unlisted(edits, "An option", PAGE.read_text())
    tree, spec = changed(edits), f"ops: {{{op}: {{damping: =c.damping}}}}"
    done = compiled(tree, family, {"damping": 0.75}, spec=spec)
    assert done.returncode == 0, done.stderr
    program = (tree / "build" / "ir" / "1-lowered.glmc").read_text()
    assert "factor=0.75" in program
    refused = compiled(tree, family, {"damping": -1}, spec=spec)
    told = "damping is -1; it must be a number above 0 ["
    assert told in refused.stderr
    assert f"own.yaml:2: ops.{op}.damping]" in refused.stderr
    absent = compiled(tree, family, {}, spec="")
    assert absent.returncode == 0, absent.stderr
    assert "factor=" not in (tree / "build" / "ir" / "1-lowered.glmc").read_text()
    assert '"damping!"' in run(tree, "-m", "glmc", "specs", "schema").stdout


def test_an_activation(changed: Callable[[Edits], Path]) -> None:
    assert not unlisted(MISH, "An activation", PAGE.read_text())
    tree = changed(MISH)
    done = compiled(tree, "llama", {"hidden_act": "mish"}, spec="")
    assert done.returncode == 0, done.stderr
    assert '"mish"' in (tree / "build" / "model.py").read_text()
    assert "def _mish(x):" in (tree / "build" / "kernels.py").read_text()


@pytest.mark.slow
def test_the_kernel_of_an_activation(changed: Callable[[Edits], Path]) -> None:
    tree = changed(MISH)
    pointwise = ROOT / "tests" / "backends" / "triton" / "test_pointwise.py"
    options = (
        "--rootdir",
        ROOT,
        "-c",
        ROOT / "pyproject.toml",
        "-p",
        "no:cacheprovider",
    )
    tested = run(
        tree, "-m", "pytest", "-q", pointwise, "-k", "test_values and mish", *options
    )
    assert tested.returncode == 0, tested.stdout
    assert "2 passed" in tested.stdout


def test_control_an_option_without_its_field_is_no_key(
    changed: Callable[[Edits], Path],
) -> None:
    done = compiled(changed({}), "llama", {}, spec="ops: {mlp: {damping: 2.0}}")
    assert "ops.mlp.damping: no such key in the spec language" in done.stderr


def test_control_a_file_that_the_page_leaves_out_is_named() -> None:
    page = PAGE.read_text().replace("`ir/lower/moe.py`", "the lowering")
    assert unlisted(OF_ROUTER, "An option", page) == {"ir/lower/moe.py"}


def test_what_the_page_lists_is_there() -> None:
    page = PAGE.read_text()
    for heading in re.findall(r"^## (.*)$", page, re.M):
        for name in listed(heading, page):
            if not re.search(r"[A-Z]{3}", name) and "…" not in name:
                assert (ROOT / name).exists(), f"{heading}: {name}"
