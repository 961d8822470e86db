"""Configs of models with mixers that say what cannot be: refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmc import compile_model
from glmc.ir.errors import GlmcError
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
