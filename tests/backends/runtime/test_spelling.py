"""Configs in one spelling, by hand: what counts, what stands for what, what is left."""

from __future__ import annotations

from typing import Any

import pytest

from glmc.backends.runtime.spelling import in_one_spelling, same, settled, with_sidecar

READS: dict[str, Any] = {
    "keys": ["a", "inner", "model_type"],
    "expected": {"e": [1]},
    "defaults": {},
    "implied": {},
    "aliases": {},
    "idle": ["idle"],
    "ignored": ["train_*"],
    "off": [False, [], {}, "none"],
    "ignored_within": ["inner.x"],
    "part": None,
    "set": [],
    "dropped": [],
    "rope": [],
    "ropes": {},
    "own": {},
}
ROPE = ["theta", "type", "factor", "max_position_embeddings", "partial_rotary_factor"]
ROPE += ["original_max_position_embeddings"]


@pytest.mark.parametrize(
    ("config", "reads", "found"),
    [
        ({"a": 1, "idle": 2, "train_b": 3}, {}, {"a": 1}),
        ({"a": None, "e": 1}, {}, {"e": 1}),
        ({"inner": {"x": 1, "y": {"z": 2}, "n": None}}, {}, {"inner.y.z": 2}),
        # A key that nobody reads counts, unless it is off.
        ({"new": 3}, {}, {"new": 3}),
        ({"new": False, "b": [], "c": {}, "d": "none", "f": 0}, {}, {"f": 0}),
        ({"a": False}, {}, {"a": False}),
        ({"b": 7}, {"aliases": {"b": "a"}}, {"a": 7}),
        ({"b": 7, "a": 8}, {"aliases": {"b": "a"}}, {"a": 8}),
        ({"b": 7, "a": None}, {"aliases": {"b": "a"}}, {"a": 7}),
        ({"b": None}, {"aliases": {"b": "a"}}, {}),
        ({}, {"defaults": {"a": 5}}, {"a": 5}),
        ({"a": 6}, {"defaults": {"a": 5}}, {"a": 6}),
        ({"a": None}, {"defaults": {"a": 5}}, {}),
        ({}, {"implied": {"a": 5}}, {"a": 5}),
        ({"a": None}, {"implied": {"a": 5}}, {"a": 5}),
        ({"a": 6}, {"implied": {"a": 5}}, {"a": 6}),
        ({"a": 1}, {"set": [[["a"], 2]]}, {"a": 2}),
        (
            {"inner": {"y": 1}},
            {"set": [[["inner", "z"], 2]]},
            {"inner.y": 1, "inner.z": 2},
        ),
        ({"inner": 3}, {"set": [[["inner", "z"], 2]]}, {"inner.z": 2}),
        ({"a": 1, "new": 2}, {"dropped": [["a"]]}, {"new": 2}),
        ({"inner": {"y": 1, "z": 2}}, {"dropped": [["inner", "y"]]}, {"inner.z": 2}),
        ({"inner": 3}, {"dropped": [["inner", "y"], ["new"]]}, {"inner": 3}),
        ({"a": 1, "part": {"a": 2}}, {"part": "part"}, {"a": 2}),
        ({"a": 1, "part": 3}, {"part": "part"}, {"a": 1, "part": 3}),
        (
            {"tie_word_embeddings": True, "part": {"tie_word_embeddings": False}},
            {"part": "part"},
            {"tie_word_embeddings": True},
        ),
        (
            {"a": 1, "part": {"a": 2}},
            {"part": "part", "set": [[["a"], 3]]},
            {"a": 3},
        ),
    ],
)
def test_all_that_a_model_is_made_from(
    config: dict[str, Any], reads: dict[str, Any], found: dict[str, Any]
) -> None:
    before = repr(config)
    assert settled(config, {**READS, **reads}) == found
    assert repr(config) == before


@pytest.mark.parametrize(
    ("config", "rope"),
    [
        ({}, {"theta": 10000.0, "type": "default", "partial_rotary_factor": 1.0}),
        (
            {"rope_theta": 5.0, "partial_rotary_factor": 0.5},
            {"theta": 5.0, "type": "default", "partial_rotary_factor": 0.5},
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5.0},
            {
                "theta": 5.0,
                "type": "linear",
                "factor": 2.0,
                "partial_rotary_factor": 1.0,
            },
        ),
        (
            {"rope_parameters": {"rope_theta": 7.0}, "rope_theta": 5.0},
            {"theta": 7.0, "type": "default", "partial_rotary_factor": 1.0},
        ),
        (
            {"rope_scaling": {"rope_type": "su"}, "max_position_embeddings": 9},
            {
                **{"theta": 10000.0, "type": "longrope", "partial_rotary_factor": 1.0},
                **{"max_position_embeddings": 9, "original_max_position_embeddings": 9},
            },
        ),
        (
            {
                "rope_scaling": {"type": "yarn", "original_max_position_embeddings": 4},
                **{"max_position_embeddings": 9, "original_max_position_embeddings": 5},
            },
            {
                **{"theta": 10000.0, "type": "yarn", "partial_rotary_factor": 1.0},
                **{"max_position_embeddings": 9, "original_max_position_embeddings": 5},
            },
        ),
        ({"rope_scaling": [3]}, {"parameters": [3]}),
    ],
)
def test_ropes_in_one_spelling(config: dict[str, Any], rope: dict[str, Any]) -> None:
    found = settled(
        config, {**READS, "rope": ROPE, "idle": ["max_position_embeddings"]}
    )
    assert found == {f"rope.{key}": value for key, value in rope.items()}


def test_ropes_of_kinds_of_layers() -> None:
    kinds = {"full_attention": {"rope_theta": 7.0}, "sliding": {"rope_theta": 3.0}}
    reads = {**READS, "rope": ["theta", "type"]}
    found = settled({"rope_parameters": kinds}, reads)
    assert found == {
        **{"rope.full_attention.theta": 7.0, "rope.full_attention.type": "default"},
        **{"rope.sliding.theta": 3.0, "rope.sliding.type": "default"},
    }
    # One of before has one rope, and a key of its own for the other kind.
    compiled = {
        "says": {"rope.theta": 7.0, "rope.type": "default", "local_theta": 3.0},
        "own": {"sliding": {"theta": "local_theta"}},
        "ropes": kinds,
        "rope": ["theta", "type"],
    }
    ours, theirs = in_one_spelling(compiled, found)
    assert ours == theirs == found
    said, other = in_one_spelling({**compiled, "says": found}, compiled["says"])
    assert said == found
    assert other == {k: v for k, v in found.items() if k != "local_theta"}
    assert in_one_spelling(compiled, {"rope.theta": 1.0})[1] == {"rope.theta": 1.0}


def test_a_sidecar_speaks_where_the_config_is_silent() -> None:
    said = {"quantization": {"quant_algo": "FP8", "x": 1}}
    whole = {"quant_method": "modelopt", "quant_algo": "FP8", "x": 1}
    assert with_sidecar({"a": 1}, said) == {"a": 1, "quantization_config": whole}
    for told in (
        {"quantization_config": {}},
        {"compression_config": {}},
        {"text_config": {"quantization_config": {}}},
    ):
        assert with_sidecar(told, said) == told
    for silent in ({}, {"quantization": 3}, {"quantization": {"quant_algo": None}}):
        assert with_sidecar({"a": 1}, silent) == {"a": 1}


def test_values_are_compared_as_json() -> None:
    inf = float("inf")
    assert same(1, 1.0)
    assert not same(1, True)
    assert not same(False, 0)
    assert same(True, True)
    assert same([inf, -inf, {"__float__": "Infinity"}], ["Infinity", "-Infinity", inf])
    assert not same(inf, "-Infinity")
    assert not same(1.5, {"__float__": 1.5, "x": 1})
