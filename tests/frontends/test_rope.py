"""Rotary parameters in both dialects, resolved as transformers resolves them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from glmc.frontends.frontend import LoadedModel
from glmc.ir import model as m
from support.configs import GLM, LLAMA
from support.loading import Load, Refusal

FACTORS = {"short_factor": [1.0 + i / 8 for i in range(8)]}
FACTORS["long_factor"] = [2.0 + i for i in range(8)]

SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn without original": {"factor": 4.0},
    "yarn without factor": {"factor": None, "original_max_position_embeddings": 64},
    "yarn mscale": {"factor": 40.0, "mscale": 0.7, "mscale_all_dim": 1.0},
    "yarn one mscale": {"factor": 40.0, "mscale": 0.7},
    "yarn attention": {"factor": 4.0, "attention_factor": 1.5},
    "yarn shrinking": {"factor": 0.5},
    "yarn untruncated": {"factor": 4.0, "truncate": False, "beta_fast": 8},
    "longrope": {**FACTORS, "original_max_position_embeddings": 64},
    "longrope factor": {
        **FACTORS,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
    },
    "proportional": {"partial_rotary_factor": 0.25},
    "proportional whole": {},
    "proportional factor": {"partial_rotary_factor": 0.5, "factor": 8.0},
    "longrope attention": {
        **FACTORS,
        "factor": 8.0,
        "attention_factor": 1.25,
        "original_max_position_embeddings": 64,
    },
}


def rope_of(loaded: LoadedModel) -> m.Rope:
    rope = loaded.model.blocks[0].steps[0].op.rope
    assert isinstance(rope, m.Rope)
    return rope


def dialects(kind: str, scaling: dict[str, Any]) -> list[dict[str, Any]]:
    """Version 5, version 4, and version 4 before rope_type had its name."""
    return [
        {"rope_parameters": {"rope_type": kind, "rope_theta": 5e5, **scaling}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": kind, **scaling}},
        {"rope_theta": 5e5, "rope_scaling": {"type": kind, **scaling}},
    ]


@pytest.mark.parametrize("name", SCALINGS)
def test_the_same_as_transformers(load: Load, name: str) -> None:
    # Imported here: transformers takes seconds.
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind, scaling = name.split()[0], SCALINGS[name]
    sizes = {k: v for k, v in LLAMA.items() if k not in ("model_type", "torch_dtype")}
    sizes["max_position_embeddings"] = 256
    ropes = [rope_of(load(LLAMA | sizes | d)) for d in dialects(kind, scaling)]
    assert ropes[0] == ropes[1] == ropes[2]
    assert ropes[0].theta == 5e5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LlamaConfig(**sizes, **dialects(kind, dict(scaling))[0])
    theirs = dict(config.rope_parameters)
    ours = ropes[0].scaling.model_dump() if ropes[0].scaling else {}
    if kind != "default":
        _, attention = ROPE_INIT_FUNCTIONS[kind](config)
        assert ours.get("attention_factor", 1.0) == pytest.approx(attention, abs=1e-12)
    if kind == "proportional":
        frequencies, _ = ROPE_INIT_FUNCTIONS[kind](config)
        assert ropes[0].dim == 2 * len(frequencies)
        assert ours["turning"] == int(frequencies.count_nonzero())
        assert ours["factor"] == pytest.approx(1 / float(frequencies[0]))
    original = theirs.get("original_max_position_embeddings")
    if kind in ("llama3", "yarn", "longrope"):
        assert ours["original_max_positions"] == original
    if kind == "dynamic":
        assert ours["max_positions"] == config.max_position_embeddings
    assert ours.get("truncate", True) == theirs.get("truncate", True)


def test_the_checks_above_can_fail(load: Load) -> None:
    """The factors they compare do differ between scalings."""
    factors = set()
    for name in ("yarn", "yarn mscale", "yarn one mscale", "yarn attention"):
        more = dialects("yarn", SCALINGS[name])[0] | {"max_position_embeddings": 256}
        scaling = rope_of(load(LLAMA | more)).scaling
        assert isinstance(scaling, m.YarnScaling)
        factors.add(scaling.attention_factor)
    assert len(factors) == 4


def test_a_top_level_original_wins(load: Load) -> None:
    more = dialects("yarn", SCALINGS["yarn"])[0]
    more |= {"original_max_position_embeddings": 32, "max_position_embeddings": 256}
    scaling = rope_of(load(LLAMA | more)).scaling
    assert isinstance(scaling, m.YarnScaling)
    assert scaling.original_max_positions == 32


@pytest.mark.parametrize(
    ("more", "dim"),
    [
        ({}, 8),
        ({"partial_rotary_factor": 0.25}, 4),
        ({"rope_parameters": {"partial_rotary_factor": 1.0}}, 16),
        (
            {
                "rope_parameters": {"partial_rotary_factor": 0.25},
                "partial_rotary_factor": 1.0,
            },
            4,
        ),
    ],
)
def test_partial(load: Load, more: dict[str, Any], dim: int) -> None:
    rope = rope_of(load(GLM | {"head_dim": 16} | more))
    assert (rope.dim, rope.style, rope.theta) == (dim, "interleaved", 10000.0)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"rope_scaling": {"type": "sou", "factor": 2}}, "'sou' is not one of default"),
        ({"rope_scaling": {"type": ["yarn"]}}, "is not one of"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
        ({"rope_scaling": {"type": "linear"}}, "factor must be a number above 0"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "found -1"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, "found '4'"),
        ({"rope_scaling": {"factor": 4.0}}, "rope type 'default' has no such key"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn"}}, "must agree"),
        (
            {"rope_scaling": {"type": "proportional", "partial_rotary_factor": 1.5}},
            "partial_rotary_factor is 1.5; it is a share of the head",
        ),
        ({"rope_theta": 0.5}, "larger than 1"),
        ({"rope_theta": -1}, "theta must be a number above 0"),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters.full_attention"),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 3.0},
            },
            "one must go",
        ),
        (
            {"rope_scaling": {"type": "longrope", "factor": 2.0} | FACTORS}
            | {"head_dim": 32},
            "short_factor must be a list of 16 numbers",
        ),
        (
            {
                "rope_scaling": {
                    "type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 4.5,
                    "high_freq_factor": 4.0,
                }
            },
            "must be at least",
        ),
    ],
)
def test_refused(refusal: Refusal, more: dict[str, Any], expected: str) -> None:
    assert expected in refusal(LLAMA | more)
