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


def test_experts_of_four_bits_beside_float8(tiny: MakeTiny, tmp_path: Path) -> None:
    """As DeepSeek publishes it; what is stored is what transformers is given."""
    case = tiny(BY_NAME["deepseek_v4-rates"])
    folder = as_published(case, tmp_path / "published")
    config = json.loads((folder / "config.json").read_text())
    config["expert_dtype"] = "fp4"
    config["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "scale_fmt": "ue8m0",
        "activation_scheme": "dynamic",
        "weight_block_size": [16, 16],
    }
    (folder / "config.json").write_text(json.dumps(config))
    plain, coded = tensors_of(folder), {}
    for name, tensor in tensors_of(folder).items():
        coded[name] = tensor
        if ".experts." in name:
            plain[name] = quantised_fp4(coded, name, tensor)
        elif name.endswith((".wq_b.weight", ".wo_b.weight")):
            plain[name] = quantised_fp8(coded, name, tensor)
    save_file(coded, folder / "model.safetensors")
    floats = as_published(case, tmp_path / "floats")
    save_file(plain, floats / "model.safetensors")
    ids = reference.read(case.reference)["ids"]
    logits = []
    for at, source in enumerate((folder, floats)):
        build = compile_model(source, tmp_path / f"build{at}")
        with torch.no_grad():
            logits.append(builds.load(build, source)(ids).logits)
    assert (logits[0] - logits[1]).abs().max() <= TOLERANCE


TABLE = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def quantised_fp4(
    coded: dict[str, torch.Tensor], name: str, weight: torch.Tensor
) -> torch.Tensor:
    """Store rows as codes, with a power of two for 32 of them."""
    out, width = weight.shape
    groups = weight.view(out, width // 32, 32)
    power = (groups.abs().amax(-1) / 6).log2().ceil()
    scaled = groups / power.exp2()[..., None]
    nearest = (scaled.abs()[..., None] - TABLE).abs().argmin(-1)
    codes = (nearest + 8 * (scaled < 0)).view(out, width).to(torch.uint8)
    coded[name] = (codes[:, 0::2] | codes[:, 1::2] << 4).view(torch.int8)
    scale = (power + 127).to(torch.uint8).view(torch.float8_e8m0fnu)
    coded[name.removesuffix("weight") + "scale"] = scale
    values = TABLE[nearest] * scaled.sign()
    return (values * power.exp2()[..., None]).view(out, width)


def quantised_fp8(
    coded: dict[str, torch.Tensor], name: str, weight: torch.Tensor
) -> torch.Tensor:
    """Store blocks of 16 by 16 as float8 with a power of two each."""
    rows, columns = (-(-n // 16) for n in weight.shape)
    power = torch.randint(-3, 1, (rows, columns)).float()
    spread = power.exp2().repeat_interleave(16, 0).repeat_interleave(16, 1)
    spread = spread[: weight.shape[0], : weight.shape[1]]
    codes = (weight / spread).to(torch.float8_e4m3fn)
    coded[name] = codes
    scale = (power + 127).to(torch.uint8).view(torch.float8_e8m0fnu)
    coded[name.removesuffix("weight") + "scale"] = scale
    return codes.float() * spread


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
        (
            {"expert_dtype": "int7", "quantization_config": {"quant_method": "fp8"}},
            "must be null, fp8 or fp4",
        ),
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


def test_snapshots_scans_and_experts_between_maps(tmp_path: Path) -> None:
    """Kimi K3 has no oracle here: its passes are verified, and it reads the same in one
    call, in chunks and token by token."""
    (tmp_path / "config.json").write_text(json.dumps(published("kimi_k3")))
    build = compile_model(tmp_path, tmp_path / "build", verify_passes=True)
    model = (build / "model.py").read_text()
    for said in ("ops.snapshot(", "soft=4.0", "routed_expert_norm", "floor=-5.0"):
        assert said in model, said
