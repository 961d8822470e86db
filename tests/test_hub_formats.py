"""Checkpoints in the hub's quantised formats are their dequantised twins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from glmc import compile_model
from glmc.command.cli import main
from glmc.ir.errors import GlmcError
from support import builds, edits, hub_formats
from support.hub_formats import FORMATS
from support.parity import TOLERANCE
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]

IDS = torch.tensor([[5, 17, 3, 42, 11, 8, 29]])


def pair(name: str, tiny: MakeTiny, folder: Path, model: str = "llama-gqa") -> Any:
    return hub_formats.pair(tiny(BY_NAME[model]).checkpoint, folder, FORMATS[name])


def logits(model: Any) -> torch.Tensor:
    """Of a prompt in one call, and then of two tokens one at a time."""
    out = model(input_ids=IDS)
    found = [out.logits]
    for token in (7, 19):
        ids = torch.tensor([[token]])
        out = model(input_ids=ids, past_key_values=out.past_key_values)
        found.append(out.logits)
    return torch.cat(found, 1)


@torch.no_grad()
def expected(twin: Path) -> torch.Tensor:
    """Return what transformers answers with the twin's weights."""
    return logits(AutoModelForCausalLM.from_pretrained(twin, dtype=torch.float32))


@pytest.mark.parametrize("name", first(12, [*FORMATS]))
def test_equals_transformers_on_its_twin(
    name: str, tiny: MakeTiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, twin = pair(name, tiny, tmp_path)
    build = compile_model(ours, tmp_path / "build")
    assert main(["check", str(build), "--weights", str(ours)]) == 0, capsys.readouterr()
    found = logits(builds.load(build, ours))
    assert (found - expected(twin)).abs().max() <= TOLERANCE
    floats = builds.load(compile_model(twin, tmp_path / "float"), twin)
    assert torch.equal(found, logits(floats))


@pytest.mark.parametrize(
    "name", first(2, ["gptq", "awq", "packed4-zeros", "int8-zeros"])
)
@pytest.mark.parametrize("model", ["glm-partial", "glm4_moe-air"])
def test_other_layouts(name: str, model: str, tiny: MakeTiny, tmp_path: Path) -> None:
    """Of fused and permuted matrices, and of experts of a tensor each."""
    ours, twin = pair(name, tiny, tmp_path, model)
    build = compile_model(ours, tmp_path / "build")
    found = logits(builds.load(build, ours))
    assert (found - expected(twin)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", first(1, ["gptq", "awq", "packed4-zeros"]))
def test_experts_of_mixtral(name: str, tiny: MakeTiny, tmp_path: Path) -> None:
    """Under its hub names, w1 to w3 of each expert; the router is floats."""

    def chosen(tensor: str) -> bool:
        return hub_formats.is_linear(tensor) or ".experts." in tensor

    source = tiny(BY_NAME["mixtral-experts"]).checkpoint
    ours, twin = hub_formats.pair(source, tmp_path, FORMATS[name], chosen)
    build = compile_model(ours, tmp_path / "build")
    assert main(["check", str(build), "--weights", str(ours)]) == 0
    model = builds.load(build, ours)
    kept = {path: weight.dtype for path, weight in model.named_parameters()}
    assert kept["layers.0.experts_gate_up"] == torch.int8
    assert kept["layers.0.block_sparse_moe_gate"] == torch.float32
    assert (logits(model) - expected(twin)).abs().max() <= TOLERANCE


def test_experts_in_mxfp4(tiny: MakeTiny, tmp_path: Path) -> None:
    source = tiny(BY_NAME["gpt_oss-sinks"]).checkpoint
    ours, twin = hub_formats.mxfp4_pair(source, tmp_path)
    build = compile_model(ours, tmp_path / "build", verify_passes=True)
    assert main(["check", str(build), "--weights", str(ours)]) == 0
    model = builds.load(build, ours)
    assert model.layers[0].experts_gate_up.dtype == torch.int8
    found, right = logits(model), expected(twin)
    assert (found - right).abs().max() <= TOLERANCE
    made = compile_model(ours, tmp_path / "made", disable=("keep-quantized",))
    floats = builds.load(made, ours)
    assert floats.layers[0].experts_gate_up.dtype == torch.float32
    assert torch.equal(logits(floats), found)
    # A control: the other nibble first, and an exponent off by one.
    for old, new in (
        ("octets & 15, octets >> 4", "octets >> 4, octets & 15"),
        ("return scale.float()", "return 2 * scale.float()"),
    ):
        wrong = edits.with_source(
            build, tmp_path / f"wrong {old}", "quantization.py", old, new
        )
        off = logits(builds.load(wrong, ours)) - right
        assert off.abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize(
    "name", first(2, ["gptq", "awq", "gptq8", "packed4-zeros", "int8"])
)
def test_pieces_of_a_large_matrix(
    name: str, tiny: MakeTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, twin = pair(name, tiny, tmp_path)
    build = compile_model(ours, tmp_path / "build", disable=("keep-quantized",))
    module = builds.import_build(build)
    monkeypatch.setattr(module.filling, "PIECE", 1 << 11)
    model = module.load(ours, dtype="float32")
    assert (logits(model) - expected(twin)).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("gptq", "found + 1 &", "found + 0 &"),
        ("gptq-v2", 'if packing == "gptq":', 'if packing != "":'),
        ("gptq", "[octets & 15, octets >> 4]", "[octets >> 4, octets & 15]"),
        ("packed4", "[octets & 15, octets >> 4]", "[octets >> 4, octets & 15]"),
        ("awq", "[0, 4, 1, 5, 2, 6, 3, 7]", "[0, 2, 4, 6, 1, 3, 5, 7]"),
        ("gptq-order", "if self.index is not None", "if self.index is False"),
        ("packed4-zeros", "if self.zeros is not None", "if self.zeros is False"),
        ("int8-zeros", "repeat_interleave(group, -1)", "repeat(1, group)"),
        ("fp8-exponents", "repeat_interleave(block[1], -1)", "repeat(1, block[1])"),
    ],
)
def test_control_a_misreading_shows(
    name: str, old: str, new: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    """A zero point off by one, nibbles or words in another order, scales misplaced."""
    ours, twin = pair(name, tiny, tmp_path)
    build = compile_model(ours, tmp_path / "build", disable=("keep-quantized",))
    wrong = edits.with_source(build, tmp_path / "wrong", "quantization.py", old, new)
    found = logits(builds.load(wrong, ours))
    assert (found - expected(twin)).abs().max() > 100 * TOLERANCE


def test_a_version_misnamed_shows(tiny: MakeTiny, tmp_path: Path) -> None:
    """The config of the other convention for zero points, which files cannot refute."""
    ours, twin = pair("gptq", tiny, tmp_path)
    config = edits.read_config(ours)
    config["quantization_config"]["checkpoint_format"] = "gptq_v2"
    edits.write_config(ours, config)
    found = logits(builds.load(compile_model(ours, tmp_path / "build"), ours))
    assert (found - expected(twin)).abs().max() > 100 * TOLERANCE


def test_modules_that_were_left_out(tiny: MakeTiny, tmp_path: Path) -> None:
    """By an expression, by name, and by none though the files hold floats."""
    source = tiny(BY_NAME["llama-gqa"]).checkpoint

    def chosen(name: str) -> bool:
        return hub_formats.is_linear(name) and "mlp" in name and "down" not in name

    config = {
        **FORMATS["packed4"].config,
        "ignore": ["re:.*self_attn.*", "lm_head", "re:.*mlp\\.(down|other)_proj$"],
    }
    form = hub_formats.Format(config, FORMATS["packed4"].make)
    ours, twin = hub_formats.pair(source, tmp_path, form, chosen)
    build = compile_model(ours, tmp_path / "build")
    text = (build / "weights.py").read_text()
    assert "self_attn.q_proj.weight_packed" not in text
    assert "mlp.up_proj.weight_packed" in text
    found = logits(builds.load(build, ours))
    assert (found - expected(twin)).abs().max() <= TOLERANCE
    config = edits.read_config(ours)
    config["quantization_config"]["ignore"] = ["lm_head"]
    edits.write_config(ours, config)
    build = compile_model(ours, tmp_path / "other", disable=("keep-quantized",))
    found = logits(builds.load(build, ours))
    assert (found - expected(twin)).abs().max() <= TOLERANCE
    assert main(["check", str(build), "--weights", str(ours)]) == 0


@pytest.mark.parametrize(
    ("name", "ending", "change"),
    [
        ("gptq", "qzeros", lambda t: t[:, :-1]),
        ("gptq", "scales", lambda t: t.T),
        ("gptq-order", "g_idx", lambda t: t.long()),
        ("awq", "qweight", lambda t: t.T),
        ("packed4", "weight_packed", lambda t: t.short()),
        ("int8", "weight_scale", lambda t: t[:-1]),
        ("modelopt", "weight_scale", lambda t: t.reshape(1).repeat(2)),
    ],
)
def test_companions_are_checked(
    name: str,
    ending: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    tiny: MakeTiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of every companion the shape and dtype, from headers, and again on loading."""
    from safetensors.torch import load_file, save_file

    ours, _ = pair(name, tiny, tmp_path)
    build = compile_model(ours, tmp_path / "build")
    tensors = load_file(ours / "model.safetensors")
    key = f"model.layers.1.mlp.up_proj.{ending}"
    tensors[key] = change(tensors[key]).contiguous()
    save_file(tensors, ours / "model.safetensors")
    assert main(["check", str(build), "--weights", str(ours)]) != 0
    assert key in capsys.readouterr().out
    with pytest.raises(ValueError, match=ending):
        builds.load(build, ours)


def test_files_and_config_that_disagree(
    tiny: MakeTiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told by the names of codes, on checking and on loading."""
    ours, twin = pair("awq", tiny, tmp_path)
    coded = compile_model(ours / "config.json", tmp_path / "coded")
    floats = compile_model(twin / "config.json", tmp_path / "floats")
    for build, files, cause, step in (
        (coded, twin, "the files hold floats", "quantization_config=null"),
        (floats, ours, "The files hold codes", "from the config.json"),
    ):
        assert main(["check", str(build), "--weights", str(files)]) == 2
        told = capsys.readouterr().err
        assert cause in told
        assert step in told
        with pytest.raises(ValueError, match="does not fit") as error:
            builds.load(build, files)
        assert cause in str(error.value)
    sets = ("quantization_config=null",)
    alone = edits.write_config(tmp_path / "alone", edits.read_config(ours))
    build = compile_model(alone, tmp_path / "again", sets=sets)
    found = logits(builds.load(build, twin))
    assert (found - expected(twin)).abs().max() <= TOLERANCE


def test_a_sidecar_says_what_the_config_does_not(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    import json

    ours, twin = pair("modelopt", tiny, tmp_path)
    config = edits.read_config(ours)
    del config["quantization_config"]
    edits.write_config(ours, config)
    beside = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    beside["exclude_modules"] = ["lm_head"]  # type: ignore[assignment]
    text = json.dumps({"producer": {"name": "modelopt"}, "quantization": beside})
    (ours / "hf_quant_config.json").write_text(text)
    found = logits(builds.load(compile_model(ours, tmp_path / "build"), ours))
    assert (found - expected(twin)).abs().max() <= TOLERANCE


def refusal(config: dict[str, Any], tiny: MakeTiny, folder: Path) -> str:
    source = edits.read_config(tiny(BY_NAME["llama-gqa"]).checkpoint)
    edits.write_config(folder, source | {"quantization_config": config})
    with pytest.raises(GlmcError) as error:
        compile_model(folder, folder / "build")
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gptq", {"bits": 3}, "bits is 3, supported is 4 or 8"),
        ("gptq", {"group_size": 0}, "group_size is 0, expected a whole number"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        ("gptq", {"lm_head": True}, "lm_head is true"),
        ("gptq", {"dynamic": {"+:.*": {"bits": 8}}}, "modules quantised in ways of"),
        ("gptq", {"rotation": "h"}, "--ignore-key quantization_config.rotation"),
        ("awq", {"version": "gemv"}, "version is 'gemv', supported is 'gemm'"),
        ("awq", {"zero_point": False}, "zero_point is false"),
        ("packed4", {"format": "marlin-24"}, "has the format 'marlin-24'"),
        ("packed4", {"ignore": ["re:(a+)+b"]}, "is not one that glmc reads"),
        ("packed4", {"config_groups": {}}, "expected what is quantised"),
        ("packed4", {"sparsity_config": {"format": "sparse"}}, "sparsity_config is"),
        ("modelopt", {"quant_algo": "W4A8_AWQ"}, "modelopt's 'W4A8_AWQ'"),
        ("modelopt", {"quant_algo": "MIXED_PRECISION"}, "quantized_layers is null"),
        ("modelopt", {"quantized_layers": {}}, "goes with MIXED_PRECISION"),
        ("nvfp4", {"group_size": 32}, "group_size is 32, and 'NVFP4' has 16"),
        ("gptq", {"quant_method": "bitsandbytes"}, "method 'bitsandbytes'"),
        ("gptq", {"quant_method": None}, "has the method null"),
    ],
)
def test_other_formats_are_refused(
    name: str, change: dict[str, Any], message: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    told = refusal({**FORMATS[name].config, **change}, tiny, tmp_path)
    assert message in told, told
    assert "unquantised" in told or "expected" in told or "glmc" in told


def test_two_formats_for_all_linear_maps_are_refused(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    config = {**FORMATS["packed4"].config}
    first = config["config_groups"]["group_0"]
    other = {**first, "weights": {**first["weights"], "num_bits": 8}}
    config["config_groups"] = {"group_0": first, "group_1": other}
    assert "two different ways" in refusal(config, tiny, tmp_path)
