"""Kernels of experts whose weights are codes against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from glmc.backends.torch import ops as reference
from support.coded import EXPERTS, FF, KINDS, TOP_K, WIDTH, Kind, experts_use
from support.kernels import random
from support.ranges import first

Interpreted = Callable[..., ModuleType]
TOLERANCE = {torch.float32: 2e-5, torch.float16: 6e-3}


def stack(kind: Kind, rows: int, width: int, seed: int) -> dict[str, torch.Tensor]:
    """A stack of any codes, with scales that make weights of about 1 / sqrt(width)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (EXPERTS, rows, width * kind.bits // 8)
    codes = torch.randint(-128, 128, shape, generator=generator).to(torch.int8)
    if kind.floats and kind.bits == 8:  # 127 is no number
        codes = torch.where((codes & 127) == 127, codes & -2, codes)
    count = (EXPERTS, rows, width // kind.group)
    most = {4: 3.0, 8: 120.0 if kind.floats else 64.0}[kind.bits]
    scale = (torch.rand(count, generator=generator) + 0.5) / (most * width**0.5)
    made = {"": codes, "_scale": scale}
    if kind.floats == "mx":
        made["_scale"] = (scale.log2().round() + 127).to(torch.uint8)
    if kind.floats == "nvfp4":
        made["_scale"] = (scale * 64).to(torch.float8_e4m3fn)
        factor = torch.rand(count[:2], generator=generator) + 0.5
        made["_factor"] = factor * 64 if kind.divided else factor / 64
    if kind.zeros:
        half = 1 << kind.bits - 1
        zeros = torch.randint(-half, half, count, generator=generator)
        made["_zeros"] = zeros.to(torch.int8)
    return made


def operands(
    kind: Kind, dtype: torch.dtype, seed: int = 0
) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """The stacks with their scales, and by name what else goes with them."""
    up, down = stack(kind, 2 * FF, WIDTH, seed), stack(kind, WIDTH, FF, seed + 1)
    if kind.floats is None:
        for made in (up, down):
            made["_scale"] = made["_scale"].to(dtype)
    more = {
        f"{name}{part}": made[part]
        for name, made in (("gate_up", up), ("down", down))
        for part in ("_zeros", "_factor")
        if part in made
    }
    return [up[""], down[""], up["_scale"], down["_scale"]], more | kind.told


def tokens(count: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """x, the experts of each token, and their weights."""
    logits = random(1, count, EXPERTS, dtype=torch.float32, seed=count)
    weights, chosen = logits.softmax(-1).topk(TOP_K)
    return [random(1, count, WIDTH, dtype=dtype, seed=count + 1), chosen, weights]


def differences(
    module: ModuleType, kind: Kind, dtype: torch.dtype, **attrs: Any
) -> list[float]:
    """From the reference: for one token, a few, and more; relative to the largest."""
    given, more = operands(kind, dtype)
    told = {"fn": "silu", **more, **attrs}
    found = []
    for count in (1, 3, 9):
        x = tokens(count, dtype)
        got = module.quantized_experts(*x, *given, **told)
        want = reference.quantized_experts(*x, *given, **told)
        assert got.dtype == want.dtype == dtype
        found.append(((got - want).abs().max() / want.abs().max()).item())
    return found


@pytest.mark.parametrize("dtype", first(1, list(TOLERANCE)))
@pytest.mark.parametrize("name", KINDS)
def test_values(interpreted: Interpreted, name: str, dtype: torch.dtype) -> None:
    module = interpreted(experts_use(KINDS[name]))
    assert max(differences(module, KINDS[name], dtype)) < TOLERANCE[dtype]


def test_biases_and_a_clamped_gate(interpreted: Interpreted) -> None:
    """As gpt-oss has them."""
    kind = KINDS["mxfp4"]
    attrs = {"alpha": 1.5, "limit": 0.8}
    biases = {
        "gate_up_bias": random(EXPERTS, 2 * FF, dtype=torch.float32, seed=8),
        "down_bias": random(EXPERTS, WIDTH, dtype=torch.float32, seed=9),
    }
    module = interpreted(experts_use(kind, *biases, **attrs))
    found = differences(module, kind, torch.float32, **attrs, **biases)
    assert max(found) < TOLERANCE[torch.float32]


def test_kinds_side_by_side(interpreted: Interpreted) -> None:
    kinds = [KINDS["int4"], KINDS["nvfp4"]]
    module = interpreted(*map(experts_use, kinds))
    for kind in kinds:
        assert max(differences(module, kind, torch.float32)) < TOLERANCE[torch.float32]


MISTAKES = [
    ("nvfp4", "output += F", "output += 0"),
    ("nvfp4", "total = total * of_row\n", "total = total\n"),
    ("nvfp4-divided", "total = total / of_row", "total = total * of_row"),
    ("int4-zeros", "point += ", "point -= "),
    ("int4", "made - point * seen", "made + point * seen"),
    ("mxfp4", "plane // SAME * SAME", "0"),
    ("nvfp4", "piece * SAME * RUN", "0"),
]


@pytest.mark.parametrize(("name", "right", "wrong"), first(3, MISTAKES))
def test_a_planted_mistake_is_caught(
    interpreted: Interpreted, name: str, right: str, wrong: str
) -> None:
    def edit(text: str) -> str:
        assert right in text
        return text.replace(right, wrong)

    module = interpreted(experts_use(KINDS[name]), edit=edit)
    found = differences(module, KINDS[name], torch.float32)
    assert any(not off < 10 * TOLERANCE[torch.float32] for off in found)
