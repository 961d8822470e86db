"""Rope tables and rotations against transformers, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GlmConfig, LlamaConfig
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as glm_rotation
from transformers.models.llama.modeling_llama import (
    LlamaRotaryEmbedding,
)
from transformers.models.llama.modeling_llama import (
    apply_rotary_pos_emb as llama_rotation,
)

from glmc.backends.torch import ops
from glmc.backends.torch.ops.rope import default_frequencies

DIM = 128
ORIGINAL = 8192
NEAR = (0, 1, 2, 77, 4095)
FAR = (*NEAR, 8191, 8192, 16384, 30011, 39999)
YARN = {
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.1386294361119891,
    "truncate": True,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {
    "short_factor": [1.0 + i / 100 for i in range(DIM // 2)],
    "long_factor": [1.0 + i / 3 for i in range(DIM // 2)],
    "attention_factor": 1.19,
}
CASES: list[tuple[str, float, dict[str, Any], bool]] = [
    ("default", 10000.0, {}, False),
    ("default", 10000, {}, False),
    ("default", 5000000.0, {}, False),
    ("linear", 10000.0, {"factor": 3.7}, False),
    ("dynamic", 10000.0, {"factor": 4.0}, False),
    ("llama3", 500000.0, LLAMA3, True),
    ("yarn", 1000000.0, YARN, True),
    ("yarn", 150000.0, {**YARN, "truncate": False, "beta_slow": 2.0}, True),
    ("longrope", 10000.0, LONG, True),
    ("proportional", 1000000.0, {"partial_rotary_factor": 0.25}, False),
    ("proportional", 10000.0, {"partial_rotary_factor": 1.0, "factor": 3.0}, False),
]


def published(
    kind: str, theta: float, scaling: dict[str, Any], original: bool, pos: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    rope = {"rope_type": kind, "rope_theta": theta, **scaling}
    if original:
        rope["original_max_position_embeddings"] = ORIGINAL
    config = LlamaConfig(
        head_dim=DIM,
        hidden_size=4 * DIM,
        num_attention_heads=4,
        max_position_embeddings=ORIGINAL,
        rope_parameters=rope,
    )
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), pos)
    return cos[..., : DIM // 2], sin[..., : DIM // 2]


def ours(
    kind: str, theta: float, scaling: dict[str, Any], original: bool, pos: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    name = "rope_table" if kind == "default" else f"rope_table_{kind}"
    extra = {"original_max_positions": ORIGINAL} if original else {}
    if kind == "dynamic":
        extra = {"max_positions": ORIGINAL}
    if kind == "proportional":
        scaling = dict(scaling)
        extra = {"turning": int(scaling.pop("partial_rotary_factor") * DIM // 2)}
    return getattr(ops, name)(pos, dim=DIM, theta=theta, **scaling, **extra)


@pytest.mark.parametrize("places", [NEAR, FAR], ids=["near", "far"])
@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_table_equals_transformers(case: Any, places: tuple[int, ...]) -> None:
    pos = torch.tensor([places, places[::-1]])
    for table, expected in zip(ours(*case, pos), published(*case, pos), strict=True):
        assert table.dtype == torch.float32
        assert torch.equal(table, expected)


@pytest.mark.parametrize("last", [8191, 8192, 8483, 8677, 9356, 20001])
def test_dynamic_table_at_each_length(last: int) -> None:
    """Among them lengths at which fp32 and fp64 scaling give other bits."""
    case: Any = ("dynamic", 10000.0, {"factor": 4.0}, False)
    pos = torch.tensor([[0, 5, last]])
    for table, expected in zip(ours(*case, pos), published(*case, pos), strict=True):
        assert torch.equal(table, expected)


@pytest.mark.parametrize("places", [NEAR, FAR], ids=["near", "far"])
def test_longrope_with_a_factor_of_its_own_for_long_texts(
    places: tuple[int, ...],
) -> None:
    """Phi-3.5-MoE: the short divisors' tables times one number, the long ones'
    times another."""
    divisors = {
        "short_factor": [1.0 + 0.1 * i for i in range(DIM // 2)],
        "long_factor": [2.0 + 0.3 * i for i in range(DIM // 2)],
        "attention_factor": 1.0,
    }
    pos = torch.tensor([places])
    plain = published("longrope", 10000.0, divisors, True, pos)
    own = {**divisors, "attention_factor": 1.2, "long_attention_factor": 1.3}
    found = ours("longrope", 10000.0, own, True, pos)
    factor = 1.3 if max(places) + 1 > ORIGINAL else 1.2
    for table, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(table, expected * factor)
        other = expected * (2.5 - factor)
        assert not torch.allclose(table, other)


def test_control_another_order_of_operations_is_seen() -> None:
    """theta ** (-2i / dim) in one step is as right, but not the published bits."""
    pos = torch.tensor([FAR])
    exponents = torch.arange(0, DIM, 2, dtype=torch.float32) / DIM
    mistaken = (pos[..., None].float() * 10000.0**-exponents).cos()
    expected, _ = published("default", 10000.0, {}, False, pos)
    assert not torch.equal(mistaken, expected)
    assert (mistaken - expected).abs().max() > 5e-4


def test_frequencies_are_computed_once() -> None:
    args = (DIM, 10000.0, torch.device("cpu"))
    assert default_frequencies(*args) is default_frequencies(*args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_rotation_equals_llama(dtype: torch.dtype) -> None:
    x = torch.randn(2, len(FAR), 3, DIM).to(dtype)
    cos, sin = ops.rope_table(torch.tensor([FAR, FAR]), dim=DIM, theta=10000.0)
    wide = [torch.cat((t, t), -1).to(dtype) for t in (cos, sin)]
    expected, _ = llama_rotation(x, x, *wide, unsqueeze_dim=2)
    assert torch.equal(ops.rope(x, cos, sin, style="half"), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_interleaved_partial_rotation_equals_glm(dtype: torch.dtype) -> None:
    config = GlmConfig(head_dim=DIM, hidden_size=4 * DIM, num_attention_heads=4)
    x, pos = torch.randn(2, len(FAR), 3, DIM).to(dtype), torch.tensor([FAR, FAR])
    expected, _ = glm_rotation(x, x, *GlmRotaryEmbedding(config)(x, pos), 2)
    cos, sin = ops.rope_table(pos, dim=DIM // 2, theta=10000.0)
    assert torch.equal(ops.rope(x, cos, sin, style="interleaved"), expected)


def test_half_rotation_passes_the_channels_beyond() -> None:
    x, pos = torch.randn(1, 4, 2, 48), torch.arange(4)[None]
    cos, sin = ops.rope_table(pos, dim=32, theta=10000.0)
    turned = ops.rope(x, cos, sin, style="half")
    assert torch.equal(turned[..., 32:], x[..., 32:])
    assert torch.equal(turned[..., :32], ops.rope(x[..., :32], cos, sin, style="half"))


def test_control_styles_differ() -> None:
    x, pos = torch.randn(1, 4, 2, 32), torch.arange(4)[None]
    cos, sin = ops.rope_table(pos, dim=32, theta=10000.0)
    half, pairs = (ops.rope(x, cos, sin, style=s) for s in ("half", "interleaved"))
    assert not torch.allclose(half, pairs)


@pytest.mark.parametrize("frequencies", ["f32", "f16"])
def test_sections_are_tables_side_by_side(frequencies: str) -> None:
    """As published for ChatGLM-6B; numpy stands for its fp16 buffer."""
    pos = torch.tensor([[[0, 3, 1999], [1, 2, 700]]])
    cos, sin = ops.rope_table_sections(
        pos, dim=128, theta=10000.0, frequencies=frequencies
    )
    rates = 10000.0 ** (-2 * np.arange(32) / 64)
    if frequencies == "f16":
        rates = rates.astype(np.float16).astype(np.float64)
    for stream, at in ((0, slice(0, 32)), (1, slice(32, 64))):
        angles = pos[0, stream].numpy()[:, None] * rates
        np.testing.assert_allclose(cos[0, :, at], np.cos(angles), atol=2e-4)
        np.testing.assert_allclose(sin[0, :, at], np.sin(angles), atol=2e-4)


def test_frequencies_in_fp16_are_other_frequencies() -> None:
    """The control: at position 1999 the rounding is plain to see."""
    pos = torch.full((1, 2, 1), 1999)
    one, other = (
        ops.rope_table_sections(pos, dim=128, theta=10000.0, frequencies=name)[0]
        for name in ("f32", "f16")
    )
    assert (one - other).abs().max() > 0.1


@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_sections_turn_like_heads_of_their_own(style: str) -> None:
    x = torch.randn(2, 3, 4, 24, generator=torch.Generator().manual_seed(0))
    cos, sin = torch.rand(2, 3, 8), torch.rand(2, 3, 8)
    got = ops.rope(x, cos, sin, style=style, sections=2)
    for at, table in ((slice(0, 8), slice(0, 4)), (slice(8, 16), slice(4, 8))):
        own = ops.rope(x[..., at], cos[..., table], sin[..., table], style=style)
        assert torch.equal(got[..., at], own)
    assert torch.equal(got[..., 16:], x[..., 16:])
