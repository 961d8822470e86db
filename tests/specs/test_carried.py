"""Gemma 4: what its configs say of caches, parts for layers, and widths of heads."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest

from glmc import compile_model
from glmc.ir import model as m
from glmc.ir.lower import lower
from glmc.ir.ops import CorrectStreams, KnownIds
from glmc.look.builds import Build
from glmc.look.inspecting import summary
from support import carried, latest
from support.loading import Load, Refusal

TEXT = carried.published("gemma4_text")
PERIOD = ["sliding_attention"] * 4 + ["full_attention"]


def config(own: int, shared: int) -> dict[str, Any]:
    """So many periods of layers with a cache, and then so many that read them."""
    layers = 5 * (own + shared)
    more = {"num_hidden_layers": layers, "num_kv_shared_layers": 5 * shared}
    parts = {"hidden_size_per_layer_input": 12}
    return TEXT | more | parts | {"layer_types": PERIOD * (own + shared)}


def attention(model: m.Model, kind: str) -> m.Attention:
    block = next(block for block in model.blocks if block.name == kind)
    assert isinstance(block.steps[0].op, m.Attention)
    return block.steps[0].op


def test_the_last_layer_of_each_kind_is_read(load: Load) -> None:
    model = load(config(3, 2)).model
    sources = {block.name: block.kv_from for block in model.blocks}
    assert sources == {
        "sliding_layer": (),
        "full_layer": (),
        "shared_sliding_layer": (13,) * 8,
        "shared_full_layer": (14,) * 2,
    }
    reader = attention(model, "shared_full_layer")
    assert (reader.k, reader.v, reader.k_norm, reader.v_norm) == (None,) * 4
    assert reader.q_norm
    assert reader.head_dim == 32


@pytest.mark.parametrize(
    "said",
    [
        {"global_head_dim": 32, "num_global_key_value_heads": 1},
        {
            "global_head_dim": None,
            "per_layer_config": {
                str(i): {"head_dim": 32, "num_key_value_heads": 1} for i in (1, 3)
            },
        },
    ],
)
def test_both_ways_to_say_how_wide_a_layers_heads_are(
    load: Load, said: dict[str, Any]
) -> None:
    model = load({**TEXT, "attention_k_eq_v": True, **said}).model
    full, sliding = (attention(model, f"{n}_layer") for n in ("full", "sliding"))
    assert (full.head_dim, full.kv_heads, full.v) == (32, 1, None)
    assert (sliding.head_dim, sliding.kv_heads) == (16, 2)
    assert sliding.v
    assert full.rope
    assert full.rope.scaling == m.ProportionalScaling(turning=4)


def test_what_is_not_known_of_a_layer_is_refused(refusal: Refusal) -> None:
    odd = {"per_layer_config": {"1": {"intermediate_size": 7}}}
    assert "its key 'intermediate_size' is not supported" in refusal(TEXT | odd)
    few = config(1, 1) | {"num_kv_shared_layers": 9}
    assert "none of the first 1 is 'full_attention'" in refusal(few)
    none = config(1, 1) | {"num_kv_shared_layers": 10}
    assert "must leave layers with keys and values of their own" in refusal(none)
    rows = config(1, 1) | {"vocab_size_per_layer_input": 100}
    assert "vocab_size_per_layer_input must be at least vocab_size" in refusal(rows)
    both = {"use_bidirectional_attention": "all"}
    assert "in both directions are not supported" in refusal(TEXT | both)


def test_keys_that_a_checkpoint_holds_all_the_same_are_waived(load: Load) -> None:
    waivers = load(config(3, 2)).model.waivers
    globs = [w.pattern for w in waivers if w.reason.startswith("this layer reads")]
    for layer, waived in ((14, False), (15, True), (24, True), (25, False)):
        for name in ("k_proj", "v_proj", "k_norm", "v_norm", "q_proj", "q_norm"):
            tensor = f"model.layers.{layer}.self_attn.{name}.weight"
            found = any(fnmatch.fnmatchcase(tensor, glob) for glob in globs)
            assert found is (waived and not name.startswith("q")), tensor


def test_a_shared_cache_counts_once_and_code_does_not_grow(tmp_path: Path) -> None:
    lines, memory = [], []
    for own, shared in ((3, 4), (3, 40), (6, 40)):
        source = tmp_path / f"{own}-{shared}.json"
        source.write_text(json.dumps(config(own, shared)))
        build = compile_model(source, tmp_path / f"build-{own}-{shared}")
        lines.append(len((build / "model.py").read_text().splitlines()))
        memory.append(summary(Build(build))["state_bytes_per_token"])
    assert len(set(lines)) == 1
    each = 2 * (4 * 2 * 2 * 16 + 2 * 2 * 32)  # bf16: heads, key and value, width
    assert memory == [3 * each, 3 * each, 6 * each]


def test_ids_of_a_table_as_long_as_the_vocabulary_are_taken_as_they_are(
    load: Load,
) -> None:
    whole = {"vocab_size_per_layer_input": TEXT["vocab_size"]}
    program = lower(load(config(1, 1) | whole).model)
    assert not any(isinstance(op, KnownIds) for op in program.stem.ops)


def test_streams_and_shorter_tables_of_parts(load: Load) -> None:
    """Gemma 3n has both: ids beyond its parts, and steps for its other streams."""
    named = {"model_type": "gemma3n_text"}
    program = lower(load(latest.FAMILIES["gemma3n_text"] | named).model)
    assert any(isinstance(op, KnownIds) for op in program.stem.ops)
    for block in program.blocks:
        named = [op.results[0].name for op in block.ops]
        (corrected,) = (op for op in block.ops if isinstance(op, CorrectStreams))
        assert corrected.results[0].name == "corrected"
        assert named[-1] == "out"
