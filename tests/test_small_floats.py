"""NVFP4 and the MX formats: their values, mixtures of formats, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
from safetensors.torch import load_file, save_file

from glmc import compile_model
from glmc.backends.runtime.quantization import dequantize_floats
from glmc.command.cli import main
from glmc.ir.errors import GlmcError
from support import builds, edits, hub_formats
from support.hub_formats import FORMATS, Tensors, is_linear
from support.variants import BY_NAME, Tiny, Variant

IDS = torch.tensor([[5, 17, 3, 42, 11, 8, 29]])
MakeTiny = Callable[[Variant], Tiny]
PRESETS = {
    "nvfp4-pack-quantized": "NVFP4A16",
    "mxfp4-pack-quantized": "MXFP4A16",
    "mxfp8-quantized": "MXFP8A16",
}


def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


def published(form: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """(what compressed-tensors stores for a weight, what it reads from that)."""
    scheme: QuantizationScheme = preset_name_to_scheme(PRESETS[form], ["Linear"])
    args = scheme.weights
    assert isinstance(args, QuantizationArgs)
    groups = weight.reshape(len(weight), -1, args.group_size or 1).abs().amax(-1)
    given = {"weight": weight}
    if form.startswith("nvfp4"):
        given["weight_global_scale"] = (448 * 6 / weight.abs().max()).reshape(1)
        scale = (groups / 6 * given["weight_global_scale"]).to(torch.float8_e4m3fn)
        given["weight_scale"] = scale.float()
    else:
        most = 6.0 if args.num_bits == 4 else 448.0
        given["weight_scale"] = torch.exp2((groups / most).log2().ceil())
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = compressor.compress(given, scheme)
    return stored, compressor.decompress(dict(stored), scheme)["weight"]


@pytest.mark.parametrize("form", PRESETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_values_are_those_of_compressed_tensors(form: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = (
        torch.randn(96, 256, generator=generator) * torch.logspace(-3, 2, 96)[:, None]
    )
    stored, theirs = published(form, weight)
    codes = stored.get("weight_packed", stored.get("weight"))
    factor = stored.get("weight_global_scale")
    assert codes is not None

    def ours(divided: bool) -> torch.Tensor:
        bits = 4 if codes.dtype == torch.uint8 else 8
        return dequantize_floats(
            codes, stored["weight_scale"], dtype, bits, factor, divided
        )

    # What they read is bfloat16; of float32 that is the same, rounded once more.
    assert torch.equal(ours(True).to(theirs.dtype), theirs)
    if factor is not None:  # a control: the other format's use of the factor
        assert not torch.equal(ours(False).to(theirs.dtype), theirs)


def test_values_are_modelopts() -> None:
    """Its own formula: the table of e2m1, times (the scale in fp32 times scale_2)."""
    generator = torch.Generator().manual_seed(4)
    codes = torch.randint(0, 256, (32, 64), generator=generator).to(torch.uint8)
    scale = (torch.rand(32, 8, generator=generator) * 400).to(torch.float8_e4m3fn)
    scale_2 = torch.tensor(3.1e-5)
    table = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]
    values = torch.empty(32, 128)
    for column in range(128):
        nibble = (
            codes[:, column // 2] >> 4 if column % 2 else codes[:, column // 2] & 15
        )
        values[:, column] = torch.tensor(table)[nibble.long()]
    gain = (scale.float() * scale_2).repeat_interleave(16, 1)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        ours = dequantize_floats(codes, scale, dtype, 4, scale_2)
        assert torch.equal(ours, (values * gain).to(dtype))


def test_every_exponent_is_exact() -> None:
    codes = torch.full((256, 16), 0x22, dtype=torch.uint8)
    scale = torch.arange(256, dtype=torch.uint8)[:, None]
    made = dequantize_floats(codes, scale, torch.float32, 4)[:, 0]
    assert made[:255].tolist() == [2.0 ** (n - 127) for n in range(255)]
    assert made[255].isnan()


def mixed(source: Path, folder: Path, config: dict[str, Any]) -> tuple[Path, Path]:
    """(NVFP4 MLPs beside float8 attention, the float twin) of a tiny checkpoint."""
    made = [
        hub_formats.pair(source, folder / name, FORMATS[name], of)
        for name, of in (("nvfp4", _feeds), ("modelopt", _attends))
    ]
    for at, beside in zip(*made, strict=True):
        feeds, attends = (load_file(one / "model.safetensors") for one in (at, beside))
        merged = {k: v for k, v in feeds.items() if not _attends_to(k)}
        merged |= {k: v for k, v in attends.items() if _attends_to(k)}
        save_file(merged, at / "model.safetensors", metadata={"format": "pt"})
    ours, twin = made[0]
    edits.write_config(ours, edits.read_config(ours) | {"quantization_config": config})
    return ours, twin


def _attends_to(name: str) -> bool:
    return ".self_attn." in name


def _attends(name: str) -> bool:
    return is_linear(name) and _attends_to(name)


def _feeds(name: str) -> bool:
    return is_linear(name) and not _attends_to(name)


def mixture(layers: int = 3) -> dict[str, Any]:
    """As Qwen3.6-27B-NVFP4 has it: each module with what it is quantised with."""
    each: dict[str, Any] = {}
    for i in range(layers):
        for name in ("q", "k", "v", "o"):
            each[f"model.layers.{i}.self_attn.{name}_proj"] = {"quant_algo": "FP8"}
        for name in ("gate", "up", "down"):
            how = {"quant_algo": "W4A16_NVFP4", "group_size": 16}
            each[f"model.layers.{i}.mlp.{name}_proj"] = how
    return {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": each,
        "ignore": ["mtp*"],
    }


def test_float8_beside_nvfp4(tiny: MakeTiny, tmp_path: Path) -> None:
    ours, twin = mixed(tiny(BY_NAME["llama-gqa"]).checkpoint, tmp_path, mixture())
    build = compile_model(ours, tmp_path / "build", verify_passes=True)
    assert main(["check", str(build), "--weights", str(ours)]) == 0
    found = logits(builds.load(build, ours))
    floats = builds.load(compile_model(twin, tmp_path / "float"), twin)
    assert torch.equal(found, logits(floats))


def test_groups_of_compressed_tensors_with_formats_of_their_own(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    ours, twin = hub_formats.pair(source, tmp_path, FORMATS["nvfp4-packed"], _feeds)
    config = {**FORMATS["nvfp4-packed"].config, "format": "mixed-precision"}
    group = config["config_groups"]["group_0"] | {"format": "nvfp4-pack-quantized"}
    other = FORMATS["packed4"].config["config_groups"]["group_0"]
    config["config_groups"] = {
        "group_0": group | {"targets": ["re:.*mlp.*"]},
        "group_1": other | {"format": "pack-quantized", "targets": ["re:.*none.*"]},
    }
    edits.write_config(ours, edits.read_config(ours) | {"quantization_config": config})
    found = logits(builds.load(compile_model(ours, tmp_path / "build"), ours))
    floats = builds.load(compile_model(twin, tmp_path / "float"), twin)
    assert torch.equal(found, logits(floats))


def changed(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def _renamed(old: str, new: str, *, keep: bool) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        found = {
            name.replace(old, new): tensor.clone()
            for name, tensor in tensors.items()
            if keep is False or name.endswith(old)
        }
        return tensors | found if keep else found

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda all: {k: v for k, v in all.items() if "scale_2" not in k},
            "missing: model.layers.*.mlp.down_proj.weight_scale_2",
        ),
        (
            _renamed("weight_scale_2", "weight_global_scale", keep=True),
            "the scale of a matrix in two formats (model.layers.0.",
        ),
        (
            _renamed("weight_scale_2", "weight_global_scale", keep=False),
            "the config describes a format with model.layers.0.",
        ),
    ],
    ids=["missing", "both", "the other's"],
)
def test_scales_of_whole_matrices(
    change: Callable[[Tensors], Tensors],
    message: str,
    tiny: MakeTiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    ours, _ = hub_formats.pair(source, tmp_path, FORMATS["nvfp4"])
    build = compile_model(ours, tmp_path / "build")
    changed(ours, change)
    with pytest.raises(ValueError, match=re.escape(message)):
        builds.load(build, ours)
    assert main(["check", str(build), "--weights", str(ours)]) == 2
    if "missing" not in message:
        with pytest.raises(GlmcError, match=r"scale"):
            compile_model(ours, tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nvfp4-packed", {"group_size": 32}, "weights.group_size is 32, and nvfp4-pa"),
        ("nvfp4-packed", {"symmetric": False}, "weights.symmetric is false"),
        ("mxfp4-packed", {"strategy": "channel"}, "strategy is 'channel', and mxfp4"),
        ("mxfp8", {"scale_dtype": "torch.float16"}, "has 'torch.uint8'"),
    ],
)
def test_formats_that_contradict_themselves(
    name: str, change: dict[str, Any], message: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    config = {**FORMATS[name].config}
    group = config["config_groups"]["group_0"]
    group = {**group, "weights": {**group["weights"], **change}}
    config["config_groups"] = {"group_0": group}
    source = edits.read_config(tiny(BY_NAME["llama-gqa"]).checkpoint)
    edits.write_config(tmp_path, source | {"quantization_config": config})
    with pytest.raises(GlmcError) as error:
        compile_model(tmp_path, tmp_path / "build")
    assert message in str(error.value)


def test_rows_that_are_no_whole_groups(tiny: MakeTiny, tmp_path: Path) -> None:
    source = edits.read_config(tiny(BY_NAME["llama-gqa"]).checkpoint)
    more = {"quantization_config": FORMATS["nvfp4"].config, "intermediate_size": 100}
    edits.write_config(tmp_path, source | more)
    with pytest.raises(GlmcError, match="rows of 100 weights, which are not whole"):
        compile_model(tmp_path, tmp_path / "build")


def test_numbers_of_numpy_are_the_table() -> None:
    """The makers of checkpoints agree with what torch reads of e4m3."""
    octets, value = hub_formats.fp4(np.array([[0.2, -6.5, 2.4, 1.6]], np.float32))
    assert value.tolist() == [[0.0, -6.0, 2.0, 1.5]]
    assert octets.tolist() == [[0xF0, 0x34]]


def size(model: Any) -> int:
    """Bytes of the matrices in layers, with all that goes with them."""
    return sum(
        weight.nbytes
        for name, weight in model.named_parameters()
        if name.startswith("layers.") and "norm" not in name
    )


SHARES = {"nvfp4": 4.5 / 32, "nvfp4-packed": 4.5 / 32, "mxfp4-packed": 4.25 / 32}


@pytest.mark.parametrize("name", [*SHARES, "mxfp8", "modelopt", "float8-rows"])
def test_codes_stay_codes(name: str, tiny: MakeTiny, tmp_path: Path) -> None:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    ours, twin = hub_formats.pair(source, tmp_path, FORMATS[name])
    model = builds.load(compile_model(ours, tmp_path / "build"), ours)
    assert model.layers[0].qkv.dtype == torch.int8
    floats = builds.load(compile_model(twin, tmp_path / "float"), twin)
    # The factors of rows, fp32, count in rows as short as these.
    share = SHARES.get(name, 8.5 / 32)
    assert size(model) / size(floats) < share + 0.02
    made = compile_model(ours, tmp_path / "made", disable=("keep-quantized",))
    assert torch.equal(logits(model), logits(builds.load(made, ours)))


MIXERS = ["qwen3_5_text-layers", "lfm2-gates", "granitemoehybrid-dense"]
# What of them is left as floats: widths of these tiny models are no groups of 16.
NARROW: Mapping[str, list[str]] = {"modelopt": [], "nvfp4": ["*.out_proj"]}


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("model", MIXERS)
def test_matrices_of_mixers(
    model: str, name: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    """Recurrent sublayers in float8 and NVFP4 are their float twin, and codes."""
    left_out = ["lm_head", "*self_attn*", "*mlp*", "*feed_forward*", *NARROW[name]]
    left_out += ["*.in_proj_a", "*.in_proj_b"]

    def chosen(tensor: str) -> bool:
        module = tensor.removesuffix(".weight")
        return "_proj" in module and not any(fnmatch(module, one) for one in left_out)

    source = tiny(BY_NAME[model]).checkpoint
    ours, twin = hub_formats.pair(source, tmp_path, FORMATS[name], chosen)
    config = edits.read_config(ours)
    config["quantization_config"]["ignore"] = left_out
    edits.write_config(ours, config)
    build = compile_model(ours, tmp_path / "build", verify_passes=True)
    found = builds.load(build, ours)
    assert any(weight.dtype == torch.int8 for weight in found.parameters())
    floats = builds.load(compile_model(twin, tmp_path / "float"), twin)
    assert torch.equal(logits(found), logits(floats))


@pytest.mark.parametrize("name", ["int8", "modelopt", "float8-rows"])
def test_experts_stay_codes(name: str, tiny: MakeTiny, tmp_path: Path) -> None:
    source = tiny(BY_NAME["glm4_moe-air"]).checkpoint
    ours, _ = hub_formats.pair(source, tmp_path, FORMATS[name])
    build = compile_model(ours, tmp_path / "build", verify_passes=True)
    assert main(["check", str(build), "--weights", str(ours)]) == 0
    model = builds.load(build, ours)
    stacks = dict(model.named_parameters())
    assert stacks["layers.1.experts_gate_up"].dtype == torch.int8
    assert stacks["layers.1.experts_down_scale"].dim() == 3
    made = compile_model(ours, tmp_path / "made", disable=("keep-quantized",))
    floats = builds.load(made, ours)
    assert floats.layers[1].experts_gate_up.dtype == torch.float32
    assert torch.equal(logits(model), logits(floats))
