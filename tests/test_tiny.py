"""The tiny checkpoints themselves: random throughout, and honest in every layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support import reference
from support import tiny as tinies
from support.parity import TOLERANCE
from support.ranges import first
from support.variants import BY_NAME, CACHE_MATTERS, VARIANTS, Tiny, Variant

# Every sixth in every run; of the others as well what parity is measured against.
SOME = VARIANTS[::6]
CHOSEN = [*SOME, *first(0, [one for one in VARIANTS if one not in SOME])]


@pytest.mark.parametrize("variant", CHOSEN, ids=str)
def test_cached_reference_agrees_with_itself(
    variant: Variant, tiny: Callable[[Variant], Tiny]
) -> None:
    made = tiny(variant)
    expected = reference.read(made.reference)
    assert 0.3 < expected["prompt"].std() < 20
    model = reference.load(made.checkpoint, variant.attention)
    decode = reference.decoded(model, expected["ids"], variant.counted)
    tail = expected["prompt"][:, reference.PROMPT :]
    same = torch.allclose(decode, tail, atol=TOLERANCE, rtol=0)
    assert same or variant.name in CACHE_MATTERS
    assert torch.allclose(decode, expected["decode"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("variant", CHOSEN, ids=str)
def test_every_tensor_is_random(
    variant: Variant, tiny: Callable[[Variant], Tiny]
) -> None:
    for name, tensor in tinies.tensors_of(tiny(variant).checkpoint).items():
        computed = name.endswith(tinies.COMPUTED)
        # Not the experts of each token either.
        if tensor.is_floating_point() and not computed:
            assert len(torch.unique(tensor)) > tensor.numel() // 2, name


def test_other_layouts_hold_the_same_tensors(
    tiny: Callable[[Variant], Tiny], tmp_path: Path
) -> None:
    variant = BY_NAME["llama-gqa"]
    whole = tinies.tensors_of(tiny(variant).checkpoint)
    tinies.make(variant, tmp_path / "sharded", shard="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    sharded = tinies.tensors_of(tmp_path / "sharded")
    tinies.as_bin(tiny(variant).checkpoint, tmp_path / "bin", shards=3)
    index = json.loads((tmp_path / "bin/pytorch_model.bin.index.json").read_text())
    files = set(index["weight_map"].values())
    binary: dict[str, torch.Tensor] = {}
    for file in files:
        binary |= torch.load(tmp_path / "bin" / file, weights_only=True)
    for other in (sharded, binary):
        assert whole.keys() == other.keys()
        assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_legacy_dialect_says_the_same() -> None:
    config = {"rope_parameters": {"rope_type": "linear", "rope_theta": 7, "factor": 4}}
    old = tinies.legacy_dialect(config)
    assert old["rope_theta"] == 7
    assert old["rope_scaling"] == {"type": "linear", "factor": 4}
