"""``glmc compile --kernel``: one's own kernel, held against the reference first."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest

from support import EXAMPLES, GOLDEN
from support.builds import import_build
from support.cli import glmc, refused
from support.ranges import first

# Where products take activation and residual, there is no act_mul and add_rms_norm.
APART = ["--disable", "linear-act", "--disable", "linear-add"]
CHATGLM = EXAMPLES / "configs/chatglm3-6b.json"

# Right, in plain torch: what the refused ones below are changed from.
ACT_MUL = """
import torch
print("noise on stdout")

def act_mul(gate_up, *, fn):
    gate, up = gate_up.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up
"""
LAST = "    return torch.nn.functional.silu(gate) * up"
WRITES = LAST.replace("return", "out =") + "\n    gate_up *= 2\n    return out"
QKV = """
def qkv_attention(qkv, kv, *, heads, head_dim, **more):
    return qkv[..., : heads * head_dim] * 0
"""


def compile_with(tmp_path: Path, op: str, text: str) -> str:
    """The refusal of a kernel; nothing is written."""
    file, out = tmp_path / "mine.py", tmp_path / "build"
    file.write_text(text)
    message = refused(
        glmc("compile", CHATGLM, "-o", out, *APART, "--kernel", f"{op}={file}")
    )
    assert not out.exists()
    return message


@pytest.mark.slow
def test_the_example_is_checked_put_in_and_called(tmp_path: Path) -> None:
    given = f"add_rms_norm={EXAMPLES / 'own_kernel.py'}"
    out = tmp_path / "build"
    arguments = [*APART, "--kernel", given, "--aot", "cuda:90"]
    run = glmc("compile", GOLDEN / "chatglm3", "-o", out, *arguments)
    assert run.returncode == 0, run.stderr
    assert "your add_rms_norm agrees with the reference" in run.stdout
    text = (EXAMPLES / "own_kernel.py").read_text()
    assert (out / "own/add_rms_norm.py").read_text() == text
    assert (
        "from .own.add_rms_norm import add_rms_norm" in (out / "kernels.py").read_text()
    )
    assert "def add_rms_norm" not in (out / "kernels.py").read_text()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["options"]["kernels"] == ["add_rms_norm"]
    assert "own/add_rms_norm.py" in manifest["files"]
    assert str(EXAMPLES) not in (out / "manifest.json").read_text()


def test_a_build_calls_ones_own_kernel(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "build"
    file.write_text(ACT_MUL)
    given = [*APART, "--kernel", f"act_mul={file}", "--json"]
    run = glmc("compile", GOLDEN / "chatglm3", "-o", out, *given)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["own_kernels"]["act_mul"] < 1e-4
    build = import_build(out)
    kernels = importlib.import_module(f"{build.__name__}.kernels")
    assert kernels.act_mul.__module__ == f"{build.__name__}.own.act_mul"


# Of each kind of mistake one in every run, and the others in `make test-slow`.
WRONG_KERNELS = [
    ("* up", "* up + 1e-3", "the result differs by"),
    ("* up", "* up.double()", "is torch.float64"),
    ("return torch", "return 0, torch", "returns 2 values, not 1"),
    (LAST, WRITES, "gate_up after the call differs"),
    ("gate, up =", "raise OSError('disk')\n    gate, up =", "raises OSError (disk)"),
    ("import torch", "import torch, os; os._exit(3)", "ended the process"),
    ("*, fn", "*, fn, more", "needs more, which act_mul(gate_up, *, fn)"),
    ("def act_mul", "def act_mul(", "cannot be read"),
]
MORE_WRONG_KERNELS = [
    ("silu", "relu", "the result differs by"),
    ("* up", "+ 0 * up", "the result differs by"),
    ("gate) * up", "gate)[..., :1] * up[..., :1]", "must be torch.float32"),
    ("return torch", "return 0 and torch", "is int and no tensor"),
    ("import torch", "import torch, numpi", "cannot be imported: ModuleNotFound"),
    ("*, fn", "*, function", "lacks the parameter fn"),
    ("gate_up, *, fn", "fn, gate_up", "in another order"),
    ("def act_mul", "def mul_act", "defines no function act_mul"),
]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        *first(2, WRONG_KERNELS),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in MORE_WRONG_KERNELS),
    ],
)
def test_a_wrong_kernel_is_refused_with_the_reason(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    assert old in ACT_MUL
    message = compile_with(tmp_path, "act_mul", ACT_MUL.replace(old, new, 1))
    assert reason in message
    assert f"--kernel act_mul={tmp_path / 'mine.py'}" in message


def test_a_kernel_that_leaves_the_cache_alone_is_refused(tmp_path: Path) -> None:
    message = compile_with(tmp_path, "qkv_attention", QKV)
    assert "differs by" in message


@pytest.mark.parametrize(
    "given", ["act_mul", "act_mul=", "=x.py", "nothing=x.py", "split=x.py"]
)
def test_an_op_that_is_not_in_the_model_is_refused(given: str, tmp_path: Path) -> None:
    out = tmp_path / "build"
    message = refused(glmc("compile", CHATGLM, "-o", out, "--kernel", given))
    assert "linear_add, qkv_attention, rms_norm_linear" in message


def test_an_op_is_replaced_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ACT_MUL)
    twice = ["--kernel", f"act_mul={tmp_path / 'mine.py'}"] * 2
    assert "given twice" in refused(glmc("compile", CHATGLM, *APART, *twice))


@pytest.mark.parametrize("through_link", [False, True])
def test_code_that_came_with_a_model_is_never_run(
    tmp_path: Path, through_link: bool
) -> None:
    model, witness = tmp_path / "model", tmp_path / "ran"
    model.mkdir()
    shutil.copy(CHATGLM, model / "config.json")
    file = model / "kernels.py"
    file.write_text(f"open({str(witness)!r}, 'w')\n{ACT_MUL}")
    if through_link:
        link = tmp_path / "link.py"
        link.symlink_to(file)
        file = link
    out = tmp_path / "build"
    run = glmc("compile", model, "-o", out, *APART, "--kernel", f"act_mul={file}")
    assert "never run" in refused(run)
    assert not witness.exists()
    assert not out.exists()
