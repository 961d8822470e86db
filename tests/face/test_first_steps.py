"""The first steps of a new user, and glmc's answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc.command.cli import main
from glmc.compile.driver import Options, compile_files
from glmc.frontends.quantization.modules import Modules
from glmc.ir.errors import GlmcError
from support import GOLDEN, builds, edits
from support.configs import FAMILIES

SOURCE = GOLDEN / "chatglm3"


def compiled_from(config: Mapping[str, Any], folder: Path, **options: Any) -> Any:
    return compile_files(edits.write_config(folder, dict(config)), Options(**options))


@pytest.mark.parametrize("role", ["AutoModel", "AutoModelForCausalLM"])
@pytest.mark.parametrize(
    "form", ["modeling_chatglm.{}", "THUDM/x--modeling_chatglm.{}"]
)
def test_classes_of_an_auto_map_alone_identify(
    role: str, form: str, tmp_path: Path
) -> None:
    config = edits.read_config(SOURCE)
    for key in ("model_type", "architectures"):
        config.pop(key, None)
    config["auto_map"] = {
        "AutoConfig": form.format("ChatGLMConfig"),
        role: form.format("ChatGLMForConditionalGeneration"),
    }
    found = compiled_from(config, tmp_path / "model")
    assert found.loaded.spec == "chatglm"
    assert found.loaded.model == compile_files(SOURCE, Options()).loaded.model
    config["auto_map"] = {role: form.format("SomethingElse")}
    with pytest.raises(GlmcError, match="SomethingElse"):
        compiled_from(config, tmp_path / "other")


@pytest.mark.parametrize(
    ("family", "given", "meant"),
    [
        ("llama", "num_layers=5", "--set num_hidden_layers=5"),
        ("llama", "n_layer=5", "--set num_hidden_layers=5"),
        ("gpt2", "num_hidden_layers=5", None),
        ("qwen2", "n_embd=64", "--set hidden_size=64"),
        ("chatglm", "n_layer=2", "--set num_layers=2"),
        ("chatglm", "num_hidden_layers=2", None),
    ],
)
def test_a_set_key_of_another_model_is_translated(
    family: str, given: str, meant: str | None, tmp_path: Path
) -> None:
    """Or taken, where the spec knows it as another name of its own key."""
    config = FAMILIES[family]
    if meant is None:
        found = compiled_from(config, tmp_path / "model", sets=(given,))
        assert found.loaded.model.layers == int(given.partition("=")[2])
        return
    with pytest.raises(GlmcError) as refused:
        compiled_from(config, tmp_path / "model", sets=(given,))
    assert str(refused.value).endswith(meant)
    assert "--ignore-key" not in str(refused.value)


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "_orig_mod."])
def test_a_prefix_that_all_names_share_is_told(
    prefix: str,
    compiled: Callable[[Path], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build = compiled(SOURCE)
    dressed(tmp_path, lambda name: prefix + name)
    assert main(["check", str(build), "--weights", str(tmp_path)]) == 2
    assert f"All its names begin with {prefix!r}" in capsys.readouterr().err
    with pytest.raises(ValueError, match="All its names begin with"):
        builds.load(build, tmp_path)


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "lora_A.default"])
def test_lora_tensors_are_to_be_merged_not_ignored(
    part: str, compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    build = compiled(SOURCE)
    name = f"transformer.encoder.layers.0.self_attention.query_key_value.{part}.weight"
    dressed(tmp_path, lambda one: one, {name: torch.zeros(2, 64)})
    with pytest.raises(ValueError, match="merge them into the weights") as refused:
        builds.load(build, tmp_path)
    assert "strict=False" not in str(refused.value)


def test_control_one_tensor_too_many_is_no_adapter(
    compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    dressed(tmp_path, lambda one: one, {"extra.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="strict=False"):
        builds.load(compiled(SOURCE), tmp_path)


def dressed(
    folder: Path,
    rename: Callable[[str], str],
    more: dict[str, torch.Tensor] | None = None,
) -> None:
    """The golden checkpoint under other names, and more."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(SOURCE.glob("pytorch_model*.bin")):
        tensors |= torch.load(shard, weights_only=True)
    named = {rename(name): one.clone() for name, one in tensors.items()}
    save_file(named | (more or {}), folder / "model.safetensors")
    (folder / "config.json").write_text((SOURCE / "config.json").read_text())


def quantised(family: str, quantization: dict[str, Any]) -> dict[str, Any]:
    return {**FAMILIES[family], "quantization_config": quantization}


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}
AWQ = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 128,
    "zero_point": True,
    "version": "gemm",
}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("plain", "more"),
    [
        (GPTQ, {"act_group_aware": True}),
        (GPTQ, {"quant_method": "gptq_marlin"}),
        (AWQ, {"quant_method": "awq_marlin"}),
    ],
)
def test_what_says_nothing_of_the_weights_changes_nothing(
    plain: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    one = compiled_from(quantised("llama", plain), tmp_path / "a")
    other = compiled_from(quantised("llama", plain | more), tmp_path / "b")
    assert one.loaded.model == other.loaded.model


def test_fp8_lists_have_two_names(tmp_path: Path) -> None:
    lists = [{key: ["mlp"]} for key in ("modules_to_not_convert", "ignored_layers")]
    models = [
        compiled_from(quantised("llama", FP8 | one), tmp_path / str(at)).loaded.model
        for at, one in enumerate(lists)
    ]
    assert models[0] == models[1]
    assert models[0] != compiled_from(quantised("llama", FP8), tmp_path / "c").loaded


@pytest.mark.parametrize(
    ("name", "module", "held"),
    [
        ("self_attn", "model.layers.0.self_attn.q_proj", True),
        ("mlp.experts", "model.layers.0.mlp.experts.3.up_proj", True),
        ("layers.1", "model.layers.1.mlp.up_proj", True),
        ("layers.1", "model.layers.10.mlp.up_proj", False),
        ("attn", "model.layers.0.self_attn.q_proj", False),
    ],
)
def test_entries_of_lists_may_be_the_middle_of_a_path(
    name: str, module: str, held: bool
) -> None:
    assert Modules.of([name]).hold(module) == held


def test_a_layout_of_another_spelling_names_its_file(tmp_path: Path) -> None:
    config = {**FAMILIES["gpt_neox"], "num_key_value_heads": 2}
    with pytest.raises(GlmcError) as refused:
        compiled_from(config, tmp_path / "model")
    assert str(tmp_path / "model" / "config.json") in str(refused.value)
    assert "num_key_value_heads" in str(refused.value)


def test_an_unverified_encoder_is_not_sent_to_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "mine.yaml"
    for family, told in (("bert", "model(ids, mask)"), ("llama", "glmc verify")):
        spec.write_text(f"extends: {family}\n")
        source = edits.write_config(tmp_path / family, FAMILIES[family])
        out = str(tmp_path / f"{family}_build")
        assert main(["compile", str(source), "-o", out, "--spec", str(spec)]) == 0
        said = capsys.readouterr().err
        assert told in said
        assert ("glmc verify" in said) == (family == "llama")


def test_verify_says_that_save_makes_no_numbers_of_its_own(
    compiled: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers has no code of its own for the published ChatGLM."""
    file = tmp_path / "golden.safetensors"
    words = ["verify", str(compiled(SOURCE)), "--weights", str(SOURCE)]
    assert main([*words, "--save", str(file)]) == 2
    said = capsys.readouterr().err
    assert "--save cannot make that file" in said
    assert "--against golden.safetensors" in said
    assert not file.exists()


def test_generate_takes_no_lists(compiled: Callable[[Path], Path]) -> None:
    model = builds.load(compiled(SOURCE), SOURCE)
    for ids in ([[1, 2]], [1, 2], ((1, 2),)):
        with pytest.raises(ValueError, match=r"torch\.tensor"):
            model.generate(ids)


def test_json_of_a_report(
    compiled: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    build = str(compiled(SOURCE))
    assert main(["report", build, "-o", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"file": str(out), "bytes": out.stat().st_size}
    assert main(["report", build, "--mermaid", "head", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"].startswith("flowchart")
