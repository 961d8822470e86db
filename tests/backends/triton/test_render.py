"""The text of kernels.py: formatted, lint-free, and no more than a model needs."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jinja2
import pytest

from glmc.backends.triton.uses import OpUse
from glmc.ir.activations import ActivationName
from glmc.ir.errors import GlmcError
from support.coded import KINDS, Kind, experts_use, floats_use
from support.kernels import (
    ENV,
    TEMPLATES,
    attention_use,
    coded_use,
    elementwise_use,
    full_use,
    latent_uses,
    moe_use,
    norm_use,
    pointwise_use,
    product_use,
    qkv_use,
    quantized_use,
    render,
    rope_use,
    router_use,
    write_use,
)
from support.mixing import MIXERS, conv_use, gated_use
from support.ranges import every
from support.scanning import (
    block_use,
    lru,
    memory_use,
    scan_use,
    selective,
    shift_use,
    steady_use,
    wkv,
)

TABLES = ("rope_table", "rope_table_llama3", "rope_table_yarn", "rope_table_longrope")
REFERENCES = (
    (),
    ("linear",),
    (
        "clamp",
        "concat",
        "embedding",
        "heads",
        "token_write",
        "linear",
        "split",
        *TABLES,
    ),
)
NORMS: tuple[tuple[OpUse, ...], ...] = (
    (),
    (norm_use("rms_norm"),),
    (norm_use("rms_norm"), norm_use("add_rms_norm")),
    (norm_use("rms_norm", weight_in="f32"), norm_use("add_rms_norm")),
    (norm_use("add_rms_norm", weight_in="f32"),),
    (norm_use("layer_norm"), norm_use("add_layer_norm", bias=True)),
    (norm_use("layer_norm", bias=True),),
    (norm_use("add_layer_norm"),),
    (norm_use("reduce_add_rms_norm", weight_in="f32"), norm_use("add_rms_norm")),
    (norm_use("reduce_add_layer_norm", bias=True), norm_use("reduce_add_layer_norm")),
    (norm_use("rms_norm", unit_offset=True), norm_use("add_rms_norm")),
    (norm_use("add_rms_norm", unit_offset=True, weight_in="f32"),),
    (
        norm_use("layer_norm", unit_offset=True, bias=True),
        norm_use("add_layer_norm", unit_offset=True, bias=True),
    ),
)
POINTWISE: tuple[tuple[OpUse, ...], ...] = (
    (),
    (pointwise_use("activation", "relu"),),
    (pointwise_use("act_mul", "silu"),),
    (pointwise_use("act_mul", "gelu_tanh"),),
    (moe_use("silu"),),
    (moe_use("relu"), pointwise_use("act_mul", "silu")),
    (moe_use("silu", "gate_up_bias", "down_bias", alpha=1.5, limit=7.0),),
    (moe_use("silu", "down_bias", weigh="input"), pointwise_use("act_mul", "gelu")),
    (router_use("bias", score="logit", after="softmax"), moe_use(weigh="input")),
    (router_use("correction", groups=4, renormalise=True), moe_use("silu")),
    (router_use(groups=4, group_score="max", renormalise=True, least_sum=0.1),),
    (router_use("bias", "correction", score="logit", after="sigmoid"),),
    (pointwise_use("act_mul", "gelu"), pointwise_use("activation", "gelu_tanh")),
    tuple(pointwise_use("act_mul", fn) for fn in ("silu", "gelu", "relu", "gelu_tanh")),
    (pointwise_use("activation", "tanh"), pointwise_use("act_mul", "silu")),
    (pointwise_use("activation", "gelu"), pointwise_use("activation", "tanh")),
)


QUANTIZED: tuple[tuple[OpUse, ...], ...] = (
    (),
    (quantized_use(4),),
    (quantized_use(8, bias=True),),
    (quantized_use(4), quantized_use(4, bias=True)),
    (quantized_use(4), quantized_use(8)),
    (quantized_use(4, group=32), quantized_use(8, bias=True)),
    (quantized_use(4, group=32, zeros=True), quantized_use(4, bias=True)),
)


SILU = {"fn": "silu", "gated": True}
PRODUCTS: tuple[tuple[OpUse, ...], ...] = (
    (),
    (product_use("linear"),),
    (coded_use("linear_add", 4), coded_use("linear_act", 8, fn="silu")),
    (coded_use("rms_norm_linear", 4, 48, 64, "bias", **SILU), product_use("linear")),
    (coded_use("layer_norm_linear", 4, 48, 64, "zeros", group=32),),
    (
        coded_use("rms_norm_linear", 4, 48, 64, "zeros", group=32),
        coded_use("linear_add", 8, group=64),
        product_use("rms_norm_linear", fn="gelu"),
    ),
    (product_use("linear", 48, 64, "bias"), product_use("linear_add")),
    (product_use("rms_norm_linear"), product_use("rms_norm_linear", **SILU)),
    (
        product_use("rms_norm_linear", 48, 64, "bias", weight_in="f32"),
        product_use("rms_norm_linear", unit_offset=True, fn="relu"),
        product_use("linear_add", 48, 64, "bias"),
    ),
    (
        product_use("layer_norm_linear", 48, 64, "norm_bias", "bias"),
        product_use("layer_norm_linear", 48, 64, "norm_bias", fn="gelu"),
    ),
    (
        product_use("layer_norm_linear"),
        product_use("rms_norm_linear", fn="gelu", gated=True),
        product_use("rms_norm_linear", fn="relu"),
    ),
    (
        product_use("layer_norm_linear", unit_offset=True),
        product_use("rms_norm_linear", weight_in="f32", unit_offset=True),
        product_use("linear_act", fn="silu"),
    ),
    (product_use("linear_act", **SILU), product_use("linear_act", fn="gelu")),
    (
        product_use("rms_norm_linear", weight_in="f32"),
        product_use("linear_act", **SILU),
    ),
)


def attentions() -> Iterator[tuple[OpUse, ...]]:
    """Every kind of layer alone, and beside one of another kind."""
    yield ()
    yield (attention_use(4, 2, 24, 40),)
    yield (full_use(4, 2, 24, 40),)
    yield (
        write_use(2, 24, 16),
        *(elementwise_use(name) for name in ("add", "mul", "rms_normalize")),
        elementwise_use("scale", factor=0.5),
        elementwise_use("scale", factor=0.5, rounded=True),
        elementwise_use("gate", fn="sigmoid"),
        elementwise_use("gate", fn="softplus"),
    )
    yield (rope_use(first=3, rotary=32), rope_use(style="interleaved"))
    yield (*latent_uses(), rope_use(sections=2, reverse=True))
    yield (*latent_uses(selects=True), *latent_uses())
    kinds = [
        qkv_use(rotary=rotary, norm=norm, style=style, window=window, weight_in=place)
        for rotary, style in ((0, "half"), (64, "half"), (32, "interleaved"))
        for norm in (False, True)
        for window in (None, 8)
        for place in ("input", "f32")
    ]
    kinds += [
        qkv_use(rotary=64, sections=2, prefix=True),
        qkv_use(rotary=64, sections=2, prefix=True, learned=4, norm=True),
        qkv_use(rotary=32, style="interleaved", learned=4),
        qkv_use(rotary=64, norm=True, unit_offset=True, weight_in="f32", softcap=30.0),
        qkv_use(extras=("slopes",)),
        qkv_use(rotary=64, extras=("sinks",), window=8, softcap=5.0),
        qkv_use(rotary=64, chunk=8),
        qkv_use(extras=("slopes", "sinks"), chunk=8, softcap=5.0),
        qkv_use(extras=("slopes", "sinks"), prefix=True, learned=4),
        attention_use(extras=("sinks",), window=8, softcap=5.0),
        attention_use(prefix=True, learned=4),
    ]
    for kind in kinds:
        yield (kind,)
        yield (kind, kinds[0])
        yield (kind, kinds[-1])


def models() -> Iterator[tuple[OpUse, ...]]:
    """Every choice of each part, and every pair of norms with attention."""
    rest = (PRODUCTS, POINTWISE, REFERENCES, QUANTIZED)
    others = itertools.cycle(itertools.product(*rest))
    for norms, attention in itertools.product(NORMS, attentions()):
        product, pointwise, names, quantized = next(others)
        kernels = (*norms, *attention, *pointwise, *product, *quantized)
        model = (*kernels, *map(OpUse, names))
        if model:
            yield model


def ruff(*arguments: str) -> str:
    command = [sys.executable, "-m", "ruff", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


MIXED = [
    *(mixer.use for mixer in MIXERS.values()),
    conv_use(8, 3, None),
    gated_use(8, 8),
    selective(8, 4, 1, "bias").use,
    lru(8, "opened").use,
    wkv(8).use,
    scan_use(2, 2, 16, 16),
    block_use(2, 4, 4, bias=True),
    shift_use(8),
    steady_use(4, factors=True),
    memory_use(2, 16, 16),
]


#: Codes of every kind, in stacks of experts and in products.
SMALL = [kind for kind in KINDS.values() if kind.floats]
ROWS = Kind(8, 0, "fp8")
CODED = [
    *map(experts_use, KINDS.values()),
    experts_use(KINDS["mxfp4"], "gate_up_bias", "down_bias", alpha=1.5, limit=7.0),
    *(floats_use("quantized_linear", kind) for kind in (*SMALL, ROWS)),
    *(floats_use("linear_add", kind) for kind in SMALL),
    floats_use("rms_norm_linear", ROWS, "bias", **SILU),
]


@pytest.mark.ranges
def test_every_combination_is_formatted_and_lint_free(tmp_path: Path) -> None:
    texts = {render(*model) for model in every(5, models())}
    assert len(texts) > 100
    for uses in (MIXED, CODED):
        texts |= {render(*uses), *(render(use) for use in uses)}
    for number, text in enumerate(sorted(texts)):
        (tmp_path / f"kernels{number}.py").write_text(text, encoding="utf-8")
    folder = str(tmp_path)
    assert not ruff("format", "--isolated", "--check", folder)
    assert not ruff("check", "--isolated", "--no-cache", folder)
    assert not ruff("check", "--isolated", "--no-cache", "--select=E501,W,I", folder)


def test_all_names_are_bound_and_exported() -> None:
    for model in itertools.islice(models(), 0, None, 20):
        tree = ast.parse(render(*model))
        bound = {
            name
            for node in tree.body
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.ImportFrom)
                else [node.name]
                if isinstance(node, ast.FunctionDef)
                else []
            )
        }
        assert {use.name for use in model} <= bound


@pytest.mark.parametrize("template", sorted((TEMPLATES / "kernels").glob("*.j2")))
def test_a_template_parses_unrendered(template: Path) -> None:
    """With a name wherever something is put in, and a function where one begins."""
    text = template.read_text(encoding="utf-8")
    text = re.sub(r" *\{\{ (parameters|attended) \}\}\n", "", text)
    text = re.sub(r"(\n( +)[^\n]*\n)#% include body", r"\1\2_", text)
    # What is put into a function begins where it is put.
    indent = len(text) - len(text.lstrip(" "))
    text = "".join(" " * n + "for _ in _:\n" for n in range(0, indent, 4)) + text
    text = re.sub(r"\{\{ \w*(head|signature) \}\}", "def _():", text)
    text = re.sub(r"\{\{ \w+\.signature \}\}", "def _():", text)
    ast.parse(re.sub(r"\{\{.*?\}\}", "_", text))


def test_structure_that_no_layer_uses_is_not_emitted() -> None:
    half = render(qkv_use(rotary=64))
    assert "channel // 2" not in half
    assert not {"WINDOW", "q_norm,", "EPS", "_weighted"} & set(half.split())
    assert "EPS" not in half
    assert "_weighted" not in half
    assert "_rows" not in half
    interleaved = render(qkv_use(rotary=64, style="interleaved", window=9))
    assert "(ROTARY // 2)) %" not in interleaved
    assert "channel ^ 1" in interleaved
    assert "if WINDOW" not in interleaved
    assert "erf" not in render(pointwise_use("act_mul", "silu"))
    assert "bias +" not in render(norm_use("layer_norm"))
    assert "import torch" not in render(norm_use("layer_norm"))


def test_a_model_of_mixed_layers_chooses_by_its_arguments() -> None:
    text = render(qkv_use(rotary=64), qkv_use(window=4))
    assert '    (True, "half", 1, False): _qkv_attention_rope,' in text
    assert "    (False, False, False, True): _qkv_attention_window," in text
    assert "if WINDOW is not None" not in text
    assert text.count("def _prefill") == 2


def test_a_model_without_kernels_imports_no_triton() -> None:
    text = render(OpUse("heads"), OpUse("embedding"))
    assert "import triton" not in text
    assert "from .reference import embedding, heads" in text


def test_equal_models_give_equal_text() -> None:
    uses = [norm_use("rms_norm"), qkv_use(), qkv_use(rotary=8), OpUse("linear")]
    assert len({render(*order) for order in itertools.permutations(uses)}) == 1


def test_rendering_imports_neither_torch_nor_triton() -> None:
    code = (
        "import sys; from glmc.backends.triton.registry import aot_specs;"
        "assert not {'torch', 'triton'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_template_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    found: set[str] = set()
    load = ENV.get_template

    def get_template(name: str, *more: Any, **options: Any) -> jinja2.Template:
        found.add(name.removeprefix("kernels/"))
        return load(name, *more, **options)

    monkeypatch.setattr(ENV, "get_template", get_template)
    for model in (*itertools.islice(models(), 0, None, 5), [OpUse("heads")]):
        render(*model)
    render(full_use(4, 2, 24), product_use("layer_norm_linear"))
    rendered = [pointwise_use("activation", fn) for fn in get_args(ActivationName)]
    render(*rendered)
    render(*MIXED, *CODED)
    there = {file.name for file in (TEMPLATES / "kernels").iterdir()}
    assert found == there


#: What kernels hold of a template that begins with ``#%`` and chooses or repeats.
MOST_CONTROL = 0.1


def test_templates_hardly_branch() -> None:
    """A form's lines are put in one by one; templates ask for nothing else."""
    lines = [
        line
        for file in (TEMPLATES / "kernels").iterdir()
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    control = [line for line in lines if "{%" in line or line.lstrip()[:2] == "#%"]
    assert len(control) <= MOST_CONTROL * len(lines)
    # As many as stand there today: each puts a loop's body into a kernel.
    assert {line.split()[1] for line in control} == {"include"}


def test_a_use_without_what_its_kernel_needs_is_named() -> None:
    with pytest.raises(GlmcError, match="qkv_attention: attribute heads"):
        render(OpUse("qkv_attention", {"head_dim": 4}))


def test_kernels_read_no_global() -> None:
    """Triton's key of a kernel that does depends on what was called before it."""
    text = render(
        qkv_use(rotary=64, norm=True, window=7),
        *NORMS[2],
        *POINTWISE[2],
        *PRODUCTS[3],
    )
    tree = ast.parse(text)
    known = {"tl", "triton", "range", "float", "isinstance"}
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    known |= {function.name for function in functions}
    kernels = [
        f for f in functions if "triton.jit" in map(_decorator, f.decorator_list)
    ]
    assert len(kernels) > 8
    for kernel in kernels:
        names = [n for n in ast.walk(kernel) if isinstance(n, ast.Name)]
        own = {n.id for n in names if isinstance(n.ctx, ast.Store)}
        own |= {argument.arg for argument in kernel.args.args}
        assert {n.id for n in names} - own <= known, kernel.name


def _decorator(node: ast.expr) -> str:
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)
