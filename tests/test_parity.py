"""Logits equal transformers', for every family and variant, within 5e-5 in fp32."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from glmc import compile_model
from support import builds, edits, parity, reference
from support import tiny as tinies
from support.measured import Record, record
from support.parity import SCENARIOS, TOLERANCE
from support.ranges import first
from support.variants import BY_NAME, VARIANTS, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Compile = Callable[[Path], Path]

# Positions are found from a mask by code that all variants share: a third of them is
# tried in every run.
CASES = [
    pytest.param(
        variant,
        scenario,
        id=f"{variant}-{scenario}",
        marks=[pytest.mark.slow] * (scenario == "padded_by_mask" and number % 3 > 0),
    )
    for number, variant in enumerate(VARIANTS)
    for scenario in SCENARIOS
    if scenario in parity.of(variant)
]


@lru_cache(maxsize=1)
def loaded(build: Path, checkpoint: Path) -> Any:
    """A model for one scenario after the other: they hold caches of their own."""
    return builds.load(build, checkpoint)


@pytest.mark.parametrize(("variant", "scenario"), CASES)
def test_logits(
    variant: Variant,
    scenario: str,
    tiny: MakeTiny,
    compiled: Compile,
    record_property: Record,
) -> None:
    case = tiny(variant)
    build = compiled(case.checkpoint)
    model = loaded(build, case.checkpoint)
    worst = SCENARIOS[scenario](model, reference.read(case.reference))
    record(record_property, build, "transformers", scenario, worst)
    assert worst <= TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        "llama-gqa",
        "mistral-window",
        "qwen3-tied",
        "glm-partial",
        "glm_moe_dsa-shared",
        "gemma4_text-shared",
        "gpt2-tied",
        "qwen3_next-interval",
    ],
)
def test_greedy_generation(name: str, tiny: MakeTiny, compiled: Compile) -> None:
    case = tiny(BY_NAME[name])
    model = builds.load(compiled(case.checkpoint), case.checkpoint)
    expected = reference.read(case.reference)
    mask = expected["padded.mask"][:, : reference.PROMPT]
    ids = expected["padded.ids"][:, : reference.PROMPT]
    got = model.generate(ids, mask, max_new_tokens=reference.STEPS)
    want = reference.generated(case.checkpoint, ids, mask)
    assert got.tolist() == want.tolist()


LEGACY = (
    "llama-linear",
    "llama-dynamic",
    "llama-llama3",
    "llama-yarn",
    "llama-longrope",
    "llama-theta",
    "mistral-window",
    "qwen2-window",
    "qwen3-window",
    "glm-quarter",
    "glm4_moe-air",
    "glm4_moe_lite-flash",
    "glm4v-text",
)


@pytest.mark.parametrize("name", first(7, LEGACY))
def test_configs_of_transformers_4(name: str, tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME[name])
    config = tinies.legacy_dialect(edits.read_config(case.checkpoint))
    source = edits.write_config(tmp_path / "source", config)
    build = compile_model(source, tmp_path / "build")
    model = builds.load(build, case.checkpoint)
    expected = reference.read(case.reference)
    for scenario in ("decode", "far"):
        assert SCENARIOS[scenario](model, expected) <= TOLERANCE, scenario


@pytest.mark.parametrize("layout", ["sharded", "bin", "sharded bin"])
@pytest.mark.parametrize("name", ["qwen2-tied", "gpt2-tied"])
def test_layouts_of_checkpoints(
    name: str, layout: str, tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    case = tiny(BY_NAME[name])
    checkpoint = tmp_path / "checkpoint"
    if layout == "sharded":
        tinies.make(case.variant, checkpoint, shard="40KB")
    else:
        shards = 3 if layout == "sharded bin" else 1
        tinies.as_bin(case.checkpoint, checkpoint, shards=shards)
    model = builds.load(compiled(checkpoint), checkpoint)
    assert parity.prompt(model, reference.read(case.reference)) <= TOLERANCE


# Controls: each of these mistakes must show, or the tests above prove little.
MISTAKES = (
    ("llama-gqa", "rms_norm_eps", 1.1e-2, "prompt"),
    ("llama-theta", "rope_parameters.rope_theta", 490_000.0, "decode"),
    ("llama-gelu", "hidden_act", "gelu", "prompt"),
    ("llama-linear", "rope_parameters.factor", 4.1, "prompt"),
    ("llama-dynamic", "max_position_embeddings", 17, "decode"),
    ("llama-llama3", "rope_parameters.high_freq_factor", 3.0, "far"),
    ("llama-yarn", "rope_parameters.original_max_position_embeddings", 1024, "far"),
    ("llama-yarn_all", "rope_parameters.attention_factor", 1.31, "padded"),
    ("llama-yarn_all", "rope_parameters.truncate", True, "far"),
    ("llama-longrope", "rope_parameters.original_max_position_embeddings", 20, "far"),
    ("mistral-window", "sliding_window", 9, "decode"),
    ("mistral-window", "sliding_window", 7, "padded"),
    ("qwen3-window", "layer_types", ["full_attention"] * 4, "prompt"),
    ("glm-partial", "rope_parameters.partial_rotary_factor", 0.25, "prompt"),
    ("glm4_moe-air", "num_experts_per_tok", 2, "prompt"),
    ("glm4_moe-air", "routed_scaling_factor", 1.6, "decode"),
    ("glm4_moe-groups", "topk_group", 3, "prompt"),
    ("glm4_moe-groups", "norm_topk_prob", True, "decode"),
    ("glm4_moe_lite-yarn", "rope_parameters.mscale_all_dim", 0.8, "prompt"),
    ("glm_moe_dsa-selects", "index_topk", 7, "decode"),
    ("glm_moe_dsa-selects", "index_topk", 64, "padded"),
    ("llama-proportional", "rope_parameters.factor", 3.1, "prompt"),
    ("llama-proportional", "rope_parameters.partial_rotary_factor", 0.25, "decode"),
    ("llama-proportional", "rope_parameters.partial_rotary_factor", 0.75, "far"),
    ("gemma4_text-shared", "sliding_window", 9, "decode"),
    ("gemma4_text-experts", "top_k_experts", 3, "prompt"),
    ("gemma4_text-everything", "final_logit_softcapping", 6.0, "prompt"),
    ("gpt2-tied", "layer_norm_epsilon", 1.9e-2, "prompt"),
    ("gpt2-unscaled", "scale_attn_weights", True, "prompt"),
    ("gpt2-by_layer", "scale_attn_by_inverse_layer_idx", False, "decode"),
)


@pytest.mark.parametrize(("name", "key", "wrong", "scenario"), first(12, MISTAKES))
def test_control_a_wrong_config_value_shows(
    name: str, key: str, wrong: Any, scenario: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    case = tiny(BY_NAME[name])
    source = edits.with_config(case.checkpoint, tmp_path / "source", {key: wrong})
    build = compile_model(source, tmp_path / "build")
    model = builds.load(build, case.checkpoint, allow_config_drift=True)
    expected = reference.read(case.reference)
    assert SCENARIOS[scenario](model, expected) > 10 * TOLERANCE


WRONG_LINES = (
    ("llama-gqa", 'style="half"', 'style="interleaved"', "prompt"),
    ("llama-biases", "bias=self.qkv_bias", "bias=None", "decode"),
    ("mistral-window", "window=8", "window=None", "decode"),
    ("qwen3-full", "k_norm=self.k_norm", "k_norm=self.q_norm", "padded"),
    ("glm-partial", 'style="interleaved"', 'style="half"', "padded_by_mask"),
    (
        "glm4_moe-air",
        "correction=self.gate_e_score_correction_bias",
        "correction=None",
        "decode",
    ),
    (
        "glm4_moe-air",
        "ops.linear_add(ff, self.shared_experts_down_proj, routed)",
        "routed",
        "prompt",
    ),
    ("glm4_moe_lite-flash", "first=12", "first=0", "decode"),
    ("glm4_moe_lite-flash", "eps=1e-06", "eps=0.01", "prompt"),
    (
        "glm_moe_dsa-shared",
        "return x1, moe, selection",
        "return x1, moe, selection[..., :3]",
        "padded",
    ),
    ("gemma4_text-shared", "kv=From(2)", "kv=From(0)", "decode"),
    ("gemma4_text-shared", "inputs.unbind(2)", "inputs.flip(2).unbind(2)", "prompt"),
    ("gemma4_text-equal", "rms_normalize(vh", "rms_normalize(kn", "prompt"),
    ("gemma4_text-parts", "turning=4", "turning=16", "prompt"),
    ("gpt2-tied", 'fn="gelu_tanh"', 'fn="silu"', "prompt"),
)


@pytest.mark.parametrize(("name", "old", "new", "scenario"), first(7, WRONG_LINES))
def test_control_a_wrong_line_shows(
    name: str,
    old: str,
    new: str,
    scenario: str,
    tiny: MakeTiny,
    compiled: Compile,
    tmp_path: Path,
) -> None:
    case = tiny(BY_NAME[name])
    right = compiled(case.checkpoint)
    wrong = edits.with_source(right, tmp_path / "build", "model.py", old, new)
    expected = reference.read(case.reference)
    model = builds.load(wrong, case.checkpoint)
    assert SCENARIOS[scenario](model, expected) > 10 * TOLERANCE


def test_control_a_forgotten_mask_shows(tiny: MakeTiny, compiled: Compile) -> None:
    case = tiny(BY_NAME["llama-gqa"])
    model = builds.load(compiled(case.checkpoint), case.checkpoint)
    expected = reference.read(case.reference)
    got = reference.cached(model, expected["padded.ids"])
    row = expected["padded.mask"].sum(-1).argmin()
    assert (got[row, -1] - expected["padded"][row, -1]).abs().max() > 10 * TOLERANCE
