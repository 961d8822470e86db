"""DeepSeek-V4 as it is published: other names of tensors, another dialect of config."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc import compile_model
from glmc.ir.errors import GlmcError
from support import builds, reference
from support.parity import TOLERANCE
from support.parity import decode as decoded
from support.streams import published
from support.tiny import tensors_of
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
SPELT = {
    "model.embed_tokens.": "embed.",
    "model.hc_head.hc_": "hc_head_",
    ".attn.norm.": ".attn.kv_norm.",
}


def respelt(name: str) -> str:
    for ours, theirs in SPELT.items():
        name = name.replace(ours, theirs)
    return name.removeprefix("model.")


def as_published(case: Tiny, folder: Path) -> Path:
    """The checkpoint as DeepSeek would have published it."""
    config = json.loads((case.checkpoint / "config.json").read_text())
    rates = {"sliding_attention": 0, **config["compress_rates"]}
    config["compress_ratios"] = [*(rates[k] for k in config.pop("layer_types")), 0]
    config["num_hash_layers"] = config.pop("mlp_layer_types").count("hash_moe")
    rope = config.pop("rope_parameters")["compress"]
    config["compress_rope_theta"] = rope.pop("rope_theta")
    config["partial_rotary_factor"] = None
    config["rope_scaling"] = None
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tensors = tensors_of(case.checkpoint).items()
    narrow = {n: t if t.is_floating_point() else t.int() for n, t in tensors}
    save_file(
        {respelt(name): t for name, t in narrow.items()}, folder / "model.safetensors"
    )
    return folder


def test_as_it_is_published(tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME["deepseek_v4-rates"])
    source = as_published(case, tmp_path / "published")
    build = compile_model(source, tmp_path / "build")
    model = builds.load(build, source)
    assert decoded(model, reference.read(case.reference)) <= TOLERANCE


def test_a_table_that_names_no_expert(tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME["deepseek_v4-rates"])
    folder = as_published(case, tmp_path / "published")
    build = compile_model(folder, tmp_path / "build")
    tensors = tensors_of(folder)
    name = "layers.0.ffn.gate.tid2eid"
    for wrong in (8, -1):
        tensors[name] = torch.full_like(tensors[name], wrong)
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(Exception, match="names experts that are not there"):
            builds.load(build, folder)
    tensors[name] = tensors[name].float()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(Exception, match="needs whole numbers"):
        builds.load(build, folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"compress_ratios": [0, 4, 7, 4], "layer_types": None}, "per_layer.reach"),
        ({"layer_types": ["sliding_attention"]}, "an entry for each"),
        ({"o_groups": 3}, "must divide the 128 channels"),
        ({"index_head_dim": 4}, "at least the 8 rotary channels"),
        ({"hc_mult": 1}, "must be a whole number of at least 2"),
        ({"qk_nope_head_dim": 20}, "stand still"),
        ({"scoring_func": "tanh"}, "scoring_func"),
        ({"expert_dtype": "int7"}, "expert_dtype is 'int7'"),
    ],
)
def test_refused_by_name(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    config = {**published("deepseek_v4"), **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(GlmcError, match=told):
        compile_model(tmp_path, tmp_path / "build")


def test_a_limit_of_zero_is_refused(tmp_path: Path) -> None:
    """transformers' words say that it is none, and its code clamps at it."""
    config = {**published("hy_v4"), "swiglu_limit": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(GlmcError, match=r"must be a number above 0.*glu.limit"):
        compile_model(tmp_path, tmp_path / "build")
