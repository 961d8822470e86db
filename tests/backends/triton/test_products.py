"""Products with what is fused to them against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.torch import ops as reference
from glmc.backends.triton import tiles
from glmc.backends.triton.uses import OpUse
from support.kernels import coded_use, examples, product_use, random
from support.ranges import first

Interpreted = Callable[..., ModuleType]

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}
DTYPES = st.sampled_from(list(TOLERANCE))
# One row, a few, as many as a program takes, and past that.
TOKENS = st.sampled_from([1, 2, 5, 16, 17])
WIDTHS = st.integers(1, 140) | st.sampled_from([256, 1025, 1100])

# What a model may hold together; each op is called as each of its uses says.
MODELS: Mapping[str, list[OpUse]] = {
    "llama": [
        product_use("rms_norm_linear"),
        product_use("rms_norm_linear", fn="silu", gated=True),
        product_use("linear_add"),
    ],
    "gpt2": [
        product_use("layer_norm_linear", 48, 64, "norm_bias", "bias"),
        product_use("layer_norm_linear", 48, 64, "norm_bias", "bias", fn="gelu_tanh"),
        product_use("linear_add", 48, 64, "bias"),
        product_use("linear"),
    ],
    "norms that differ": [
        product_use("rms_norm_linear", weight_in="f32", unit_offset=True),
        product_use("rms_norm_linear", 48, 64, "bias", fn="relu"),
        product_use("layer_norm_linear", unit_offset=True, fn="gelu", gated=True),
        product_use("linear_act", fn="relu"),
        product_use("linear_act", 48, 64, "bias", fn="silu", gated=True),
    ],
    "chatglm, int4": [
        coded_use("rms_norm_linear", 4, 48, 64, "bias"),
        coded_use("rms_norm_linear", 4, fn="silu", gated=True),
        coded_use("linear_add", 4),
        product_use("rms_norm_linear"),
    ],
    "int8 alone": [
        coded_use("layer_norm_linear", 8, 48, 64, "norm_bias", "bias", fn="gelu"),
        coded_use("linear_add", 8, 48, 64, "bias"),
        coded_use("quantized_linear", 8),
    ],
    "groups": [
        coded_use("rms_norm_linear", 4, 48, 64, "zeros", group=32),
        coded_use("rms_norm_linear", 4, 48, 128, group=128, fn="silu", gated=True),
        coded_use("linear_add", 8, 48, 64, "zeros", "bias", group=16),
        coded_use("linear_act", 4, fn="silu"),
        product_use("linear_add"),
    ],
    "groups alone": [
        coded_use("layer_norm_linear", 4, 48, 64, group=64, unit_offset=True),
        coded_use("linear_add", 4, 48, 64, group=32),
    ],
}


def case(
    use: OpUse, tokens: int, width: int, rows: int, dtype: torch.dtype, seed: int
) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Operands and keywords of a call; the rows of a gated weight are even, and codes
    fill words and groups."""
    rows += rows % 2 if use.flag("gated") else 0
    codes: dict[str, torch.Tensor] = {}
    if "bits" in use.attrs:
        several = len(use.shapes["scale"]) > 1
        unit = use.size("x") // use.size("scale") if several else 8
        width = -(-width // unit) * unit
        codes = quantised(use, width, rows, width // unit * several, dtype, seed)
    x = random(1, tokens, width, dtype=dtype, seed=seed)
    weight = random(rows, width, dtype=torch.float32, seed=seed + 1) / width**0.5
    operands = [codes.pop("weight", weight.to(dtype))]
    if "norm" in use.name:
        operands.insert(0, random(width, dtype=dtype, seed=seed + 2))
    if use.name == "linear_add":
        operands.append(random(1, tokens, rows, dtype=dtype, seed=seed + 3))
    sizes = {"bias": rows, "norm_bias": width}
    given = {
        name: random(sizes[name], dtype=dtype, seed=seed + len(name))
        for name in use.operands & {*sizes}
    }
    return [x, *operands], {**use.attrs, **given, **codes}


def quantised(
    use: OpUse, width: int, rows: int, groups: int, dtype: torch.dtype, seed: int
) -> dict[str, torch.Tensor]:
    """Any codes, and scales that make weights of about 1 / sqrt(width)."""
    bits, generator = use.whole("bits"), torch.Generator().manual_seed(seed)

    def whole(half: int, *shape: int) -> torch.Tensor:
        found = torch.randint(-half, half, shape, generator=generator)
        return found.to(torch.int8)

    shape = (rows, groups) if groups else (rows,)
    scale = torch.rand(shape, generator=generator) + 0.5
    made = {"weight": whole(128, rows, width * bits // 8)}
    made["scale"] = (scale / (2 ** (bits - 2) * width**0.5)).to(dtype)
    if "zeros" in use.operands:
        made["zeros"] = whole(2 ** (bits - 1), *shape)
    return made


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    tolerance = TOLERANCE[want.dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("model", MODELS)
@examples(3)
@given(
    dtype=DTYPES,
    tokens=TOKENS,
    width=WIDTHS,
    rows=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_values(
    interpreted: Interpreted,
    model: str,
    dtype: torch.dtype,
    tokens: int,
    width: int,
    rows: int,
    seed: int,
) -> None:
    module = interpreted(*MODELS[model])
    for use in MODELS[model]:
        operands, given = case(use, tokens, width, rows, dtype, seed)
        got = getattr(module, use.name)(*operands, **given)
        close(got, getattr(reference, use.name)(*operands, **given))


@pytest.mark.parametrize("rows", [2050, pytest.param(8200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tokens", first(1, [3, 1]))
def test_many_outputs(interpreted: Interpreted, rows: int, tokens: int) -> None:
    """Larger tiles, and fewer programs or none to share the columns of a row."""
    use = product_use("linear_add")
    operands, given = case(use, tokens, 70, rows, torch.float32, 0)
    got = interpreted(use).linear_add(*operands, **given)
    close(got, reference.linear_add(*operands, **given))


def test_columns_that_are_shared_are_summed_in_one_order(
    interpreted: Interpreted,
) -> None:
    """Twice the same bits, and the counters are back at zero."""
    use = product_use("linear")
    module = interpreted(use)
    operands, _ = case(use, 4, 1100, 40, torch.float32, 0)
    assert torch.equal(module.linear(*operands), module.linear(*operands))
    assert not module._arrivals(operands[0].device).any()


def test_there_is_a_counter_for_every_program() -> None:
    for table in tiles.LINEAR_SKINNY.values():
        for outputs in range(1, max(table) + 1):
            tile = next(tile for least, tile in table.items() if least <= outputs)
            programs = -(-outputs // tile["ROWS"])
            assert tile["PARTS"] == 1 or programs <= tiles.counters()


LAYOUTS = ["transposed", "row", "last token", "every other"]


@pytest.mark.parametrize("layout", first(2, LAYOUTS))
@pytest.mark.parametrize("tokens", [1, 12])
def test_strides(interpreted: Interpreted, layout: str, tokens: int) -> None:
    whole = random(2, tokens, 40, dtype=torch.float32, seed=0)
    x = {
        "last token": whole[:1, -1:],
        "every other": whole[:, ::2],
        "transposed": whole.transpose(1, 2)[:1, :8],
        "row": whole[:, :1].expand(-1, 3, -1),
    }[layout]
    use = product_use("linear_add")
    (_, weight, _), _ = case(use, 1, x.shape[-1], 20, torch.float32, 3)
    residual = random(*x.shape[:-1], 40, dtype=torch.float32, seed=4)[..., ::2]
    got = interpreted(use).linear_add(x, weight, residual)
    close(got, reference.linear_add(x, weight, residual))


def test_a_product_is_rounded_before_the_residual_joins(
    interpreted: Interpreted,
) -> None:
    """As published: 1 + 2048 · 2**-11 is 2 in float16 only if the sum is not wide."""
    x = torch.tensor([[[1.0, 2.0**-11]]], dtype=torch.float16)
    weight = torch.ones(1, 2, dtype=torch.float16)
    residual = torch.tensor([[[2.0**-11]]], dtype=torch.float16)
    for rows in (x, x.expand(1, 3, -1)):
        beside = residual.expand(*rows.shape[:-1], 1)
        got = interpreted(product_use("linear_add")).linear_add(rows, weight, beside)
        assert torch.equal(got, reference.linear_add(rows, weight, beside))
        assert not torch.equal(got, (1 + 2 * residual).expand_as(got))


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    first(
        1,
        [
            ("rms_norm_linear", "/ IN + EPS", "/ COLUMNS + EPS"),
            ("rms_norm_linear", "row % 2 * (OUT // 2)", "row % 2 * (OUT // 2 - 1)"),
            ("rms_norm_linear", "gate, up = tl.split", "up, gate = tl.split"),
            (
                "linear_add",
                "(column < width)[None, :]",
                "(column < width - 1)[None, :]",
            ),
            ("linear_add", "tile = following", "tile = tile"),
            ("linear_add", "range(PARTS)", "range(1, PARTS)"),
            ("linear_add", "part * SHARE + begin", "part * COLUMNS + begin"),
            ("linear_add", "tl.store(arrived + first, 0)", "pass"),
            ("linear_add", "before + product", "product"),
        ],
    ),
)
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, name: str, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong).replace("/ COLUMNS + EPS", "/ 4096 + EPS")

    gated = {"fn": "silu", "gated": True} if "norm" in name else {}
    use = product_use(name, **gated)
    worst = []
    for change in (str, edit):
        module = interpreted(use, edit=change)
        off = 0.0
        for tokens in (1, 3, 3):
            operands, given = case(use, tokens, 1100, 5, torch.float32, 0)
            got = getattr(module, name)(*operands, **given)
            want = getattr(reference, name)(*operands, **given)
            off = max(off, (got - want).abs().max().item())
        worst.append(off)
    assert worst[0] < TOLERANCE[torch.float32]
    assert not worst[1] < 10 * TOLERANCE[torch.float32]
