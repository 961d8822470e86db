"""The reference module of a build, as text."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from glmc.backends.torch import ops
from glmc.backends.torch.select import (
    FILES,
    places,
    read_source,
    reference_module,
)

RUFF = [sys.executable, "-m", "ruff"]
CHATGLM = ["embedding", "linear", "qkv_attention", "act_mul", "rope_table", "add"]


def defined(source: str) -> list[str]:
    tree = ast.parse(source)
    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]


def loaded(source: str) -> ModuleType:
    module = ModuleType("reference")
    module.__package__ = "glmc.backends.runtime"  # what lies beside it in a build
    with pytest.MonkeyPatch.context() as patch:
        # Where a dataclass looks up what its annotations name.
        patch.setitem(sys.modules, module.__name__, module)
        exec(compile(source, "reference.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", [*ops.__all__, "*"])
def test_every_selection_runs(name: str) -> None:
    names = ops.__all__ if name == "*" else [name]
    assert set(names) <= set(vars(loaded(reference_module(names))))


def test_every_selection_is_clean(tmp_path: Path) -> None:
    for name in (*ops.__all__, "all"):
        names = ops.__all__ if name == "all" else [name]
        (tmp_path / f"{name}.py").write_text(reference_module(names), "utf-8")
    for command in (["format", "--check"], ["check"]):
        subprocess.run([*RUFF, *command, str(tmp_path)], check=True)


def test_holds_exactly_what_is_used() -> None:
    assert defined(reference_module(["act_mul", "rope_table"])) == [
        "act_mul",
        "constant",
        "rope_table",
        "cos_sin",
        "exponents",
        "default_frequencies",
    ]
    assert "functools" not in reference_module(["linear"])


def test_a_parameter_is_no_use_of_the_function_of_its_name() -> None:
    assert "heads" not in defined(reference_module(["qkv_attention"]))


def test_order_of_the_request_does_not_matter() -> None:
    assert reference_module(CHATGLM) == reference_module(reversed(CHATGLM))


def test_computes_what_the_ops_compute() -> None:
    reference = loaded(reference_module(["rms_norm", "act_mul"]))
    x, weight = torch.randn(2, 3, 8), torch.randn(8)
    expected = ops.rms_norm(x, weight, eps=1e-5)
    assert torch.equal(reference.rms_norm(x, weight, eps=1e-5), expected)
    assert torch.equal(reference.act_mul(x, fn="gelu"), ops.act_mul(x, fn="gelu"))


def test_lines_at_column_0_are_the_definitions() -> None:
    """The definitions that a look at the text finds are those that parsing finds."""
    parsed = {name: file for file in FILES for name in read_source(file).definitions}
    assert places() == parsed


def test_only_the_files_of_a_selection_are_parsed() -> None:
    read_source.cache_clear()
    reference_module(["linear", "rms_norm"])
    assert read_source.cache_info().currsize == 2


def test_refuses_an_unknown_op() -> None:
    with pytest.raises(LookupError, match="no reference op is named gather"):
        reference_module(["linear", "gather"])


def test_selecting_imports_no_torch() -> None:
    code = (
        "import sys; from glmc.backends.torch.select import reference_module as r;"
        "r(['qkv_attention']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
