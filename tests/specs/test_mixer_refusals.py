"""Configs of models with mixers that say what cannot be: refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmc import compile_model
from glmc.ir import model as m
from glmc.ir.errors import GlmcError
from glmc.ir.lower import lower
from support import builds, edits
from support.configs import FAMILIES
from support.loading import Load, Refusal
from support.variants import BY_NAME, Tiny, Variant

PATTERN = {k: v for k, v in FAMILIES["nemotron_h"].items() if k != "layers_block_type"}


def kda(**lists: list[int]) -> dict[str, Any]:
    """A config of Kimi Linear with four layers and these lists of them."""
    known = FAMILIES["kimi_linear"]["linear_attn_config"]
    return {**FAMILIES["kimi_linear"], "linear_attn_config": {**known, **lists}}


def test_a_pattern_of_letters_is_read(load: Load) -> None:
    model = load({**PATTERN, "hybrid_override_pattern": "MEM*-"}).model
    assert [block.name for block in model.blocks] == [
        "scan_layer",
        "moe_layer",
        "attention_layer",
        "mlp_layer",
    ]
    assert model.blocks[0].layers == (0, 2)


@pytest.mark.parametrize(
    ("pattern", "more", "told"),
    [
        ("MEX*", {}, "'X'"),
        ("ME m", {}, "' '"),
        ("MEM*", {"num_hidden_layers": 5}, "an entry for each of num_hidden_layers"),
        ("MEM*", {"layers_block_type": ["mamba"]}, "must have the same length"),
    ],
)
def test_a_pattern_that_cannot_be(
    refusal: Refusal, pattern: str, more: dict[str, Any], told: str
) -> None:
    found = refusal({**PATTERN, "hybrid_override_pattern": pattern, **more})
    assert told in found
    assert "pattern" in found


@pytest.mark.parametrize(
    ("lists", "told"),
    [
        ({"kda_layers": [0, 1, 3], "full_attn_layers": [2]}, "counts layers from 1"),
        ({"kda_layers": [1, 2, 3], "full_attn_layers": [0]}, "counts layers from 1"),
        ({"kda_layers": [1, 2], "full_attn_layers": [3]}, "'neither'"),
        ({"kda_layers": [1, 2, 3, 4], "full_attn_layers": [3]}, "'both'"),
    ],
)
def test_layers_that_are_not_counted_from_1(
    refusal: Refusal, lists: dict[str, list[int]], told: str
) -> None:
    assert told in refusal(kda(**lists))


@pytest.mark.parametrize(
    ("name", "key", "tensor"),
    [
        ("mamba2-groups", "state_size", "mixer.in_proj"),
        ("nemotron_h-experts", "ssm_state_size", "mixer.in_proj"),
        ("qwen3_next-interval", "linear_key_head_dim", "linear_attn.in_proj_qkvz"),
        ("mamba-channels", "state_size", "mixer.A_log"),
        ("recurrent_gemma-griffin", "lru_width", "temporal_block"),
    ],
)
def test_a_state_that_contradicts_the_tensors(
    name: str,
    key: str,
    tensor: str,
    tiny: Callable[[Variant], Tiny],
    tmp_path: Path,
) -> None:
    case = tiny(BY_NAME[name])
    source = edits.with_config(case.checkpoint, tmp_path / "source", {key: 16})
    build = compile_model(source, tmp_path / "build")
    with pytest.raises((GlmcError, ValueError), match=tensor):
        builds.load(build, case.checkpoint, allow_config_drift=True)


@pytest.mark.parametrize("said", ["sigmoid", None])
def test_another_name_of_a_key_with_one_value(load: Load, said: str | None) -> None:
    """It is known where the key that it stands for may have one value only."""
    config = FAMILIES["kimi_linear"] | {"moe_router_activation_func": said}
    assert load(config).model.layers == 4


def test_another_name_of_a_key_with_a_value_it_cannot_have(refusal: Refusal) -> None:
    config = FAMILIES["kimi_linear"] | {"moe_router_activation_func": "softmax"}
    assert "supported is null or 'sigmoid'" in refusal(config)


@pytest.mark.parametrize("name", ["mamba", "mamba2", "falcon_mamba"])
def test_their_matrices_may_be_quantised(load: Load, name: str) -> None:
    quantised = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    config = FAMILIES[name] | {"quantization_config": quantised}
    model = load(config).model
    mixer = model.blocks[0].steps[0].op
    assert isinstance(mixer, m.Mixer | m.Selective)
    assert isinstance(mixer.o.weight.storage, m.BlockQuantized)
    (block,) = lower(model).blocks
    assert "Dequant" not in repr(block.param("A_log"))
    assert "Dequant" in repr(block.param("out_proj"))


def test_layer_types_that_cannot_be(refusal: Refusal) -> None:
    config = FAMILIES["minimax"]
    kinds = ["full_attention"] * 4
    said = refusal(config | {"layer_types": kinds})
    assert "layer_types must have an entry for each of num_hidden_layers" in said
    said = refusal(config | {"layer_types": [*kinds, "lightning"]})
    assert "one of full_attention, linear_attention" in said
    assert "full_attn_alpha_factor" in refusal(config | {"full_attn_alpha_factor": 0})


@pytest.mark.parametrize(
    ("family", "values", "told"),
    [
        ("recurrent_gemma", {"block_types": ["recurrent", "conv"]}, "'conv'"),
        ("recurrent_gemma", {"lru_width": 42}, "a multiple of num_attention_heads"),
        ("recurrent_gemma", {"conv1d_width": 1}, "at least 2"),
        ("rwkv", {"attention_hidden_size": 32}, "must be hidden_size"),
        ("rwkv", {"rescale_every": "six"}, "rescale_every"),
        ("xlstm", {"weight_mode": "fused"}, "a matrix for each of q, k, v"),
        ("xlstm", {"use_bias": True}, "use_bias"),
        ("xlstm", {"num_heads": 3}, "must be multiples of num_heads"),
        ("xlstm", {"gate_soft_cap": -1}, "gate_soft_cap"),
    ],
)
def test_units_that_cannot_be(
    refusal: Refusal, family: str, values: dict[str, Any], told: str
) -> None:
    assert told in refusal(FAMILIES[family] | values)


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"steady": None}, "no decay"), ({"decay": "both"}, "several decays")],
)
def test_a_state_decays_in_one_way(
    load: Load, fields: dict[str, Any], told: str
) -> None:
    model = load(FAMILIES["minimax"]).model
    other = load(FAMILIES["qwen3_next"]).model
    (decay,) = {
        step.op.decay
        for block in other.blocks
        for step in block.steps
        if isinstance(step.op, m.Mixer)
    }
    fields = {k: decay if v == "both" else v for k, v in fields.items()}
    block = model.blocks[0]
    wrong = block.steps[0].op.model_copy(update=fields)
    steps = (block.steps[0].model_copy(update={"op": wrong}), *block.steps[1:])
    blocks = (block.model_copy(update={"steps": steps}), *model.blocks[1:])
    with pytest.raises(GlmcError, match=told):
        lower(model.model_copy(update={"blocks": blocks}))


def test_layers_of_one_block_differ_in_their_decay(load: Load) -> None:
    """Slower from layer to layer, which are of one kind all the same."""
    blocks = {b.name: b for b in load(FAMILIES["minimax"]).model.blocks}
    assert blocks["linear_layer"].layers == (0, 1, 3, 4)
    op = blocks["linear_layer"].steps[0].op
    assert isinstance(op, m.Mixer)
    assert op.steady
    assert op.steady.scale == pytest.approx((1.0, 0.75, 0.25, 0.0), abs=1e-4)
