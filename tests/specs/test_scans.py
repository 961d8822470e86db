"""Specs whose layers scan tokens: which layers do, and what is refused."""

from __future__ import annotations

import pytest

from glmc.ir import model as m
from glmc.ir.lower import lower
from support.configs import FAMILIES
from support.loading import Load, Refusal

NAMES = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")


def scanning(model: m.Model) -> list[int]:
    """The layers that have a mixer."""
    return sorted(
        layer
        for block in model.blocks
        for layer in block.layers
        if isinstance(block.steps[0].op, m.Mixer)
    )


@pytest.mark.parametrize("name", NAMES)
def test_which_layers_scan(name: str, load: Load) -> None:
    config = FAMILIES[name]
    assert scanning(load(config).model) == [0, 1, 2]
    every = load(config | {"full_attention_interval": 2}).model
    assert scanning(every) == [0, 2]
    kinds = ["full_attention", "linear_attention"] * 2
    assert scanning(load(config | {"layer_types": kinds}).model) == [1, 3]


def test_what_a_layer_keeps(load: Load) -> None:
    """The tokens of a convolution's window, in the model's dtype; the scan's state, in
    fp32."""
    program = lower(load(FAMILIES["qwen3_next"]).model)
    (block,) = (b for b in program.blocks if "linear" in b.name)
    kept = {state.name: str(state.type) for state in block.states}
    assert kept == {
        "conv_q": "[24,4] per row",
        "conv_k": "[24,4] per row",
        "conv_v": "[60,4] per row",
        "scan": "f32[6,12,10] per row",
    }


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused(name: str, refusal: Refusal) -> None:
    config = FAMILIES[name]
    said = refusal(config | {"linear_num_value_heads": 5})
    assert "linear_num_value_heads must be a multiple of linear_num_key_heads" in said
    assert "layer_types" in refusal(config | {"layer_types": ["full_attention"]})
    kinds = ["full_attention", "mamba", "full_attention", "full_attention"]
    said = refusal(config | {"layer_types": kinds})
    assert "one of full_attention, linear_attention" in said
    said = refusal(config | {"linear_conv_kernel_dim": 1})
    assert (
        "linear_conv_kernel_dim is 1; it must be a whole number of at least 2" in said
    )
