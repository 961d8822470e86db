"""Checkpoints of experts: each in its own tensors or all stacked; what is waived."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glmc import compile_model
from glmc.backends.runtime.tensor_info import TensorInfo
from glmc.compile.accounting import account
from glmc.compile.driver import Options, compile_files
from support import builds, edits, parity, reference
from support.tiny import tensors_of
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Tensors = dict[str, torch.Tensor]
NAME = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


def stacked(tensors: Tensors) -> Tensors:
    """The same checkpoint with one tensor for all gates and ups, one for all downs."""
    found: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
    rest = dict(tensors)
    for name, tensor in tensors.items():
        if match := NAME.fullmatch(name):
            of, x, slot = match.groups()
            found.setdefault((of, slot), {})[int(x)] = tensor
            del rest[name]
    whole = {
        key: torch.stack([each[x] for x in sorted(each)]) for key, each in found.items()
    }
    for of in {of for of, _ in whole}:
        both = torch.cat([whole[of, "gate"], whole[of, "up"]], 1)
        rest |= {f"{of}.gate_up_proj": both, f"{of}.down_proj": whole[of, "down"]}
    return rest


def save(case: Tiny, folder: Path, tensors: Tensors) -> Path:
    folder.mkdir()
    (folder / "config.json").write_bytes((case.checkpoint / "config.json").read_bytes())
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(kept, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["glm4_moe-qk_norm", "glm_moe_dsa-shared"])
def test_stacked_experts(name: str, tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME[name])
    source = save(case, tmp_path / "stacked", stacked(tensors_of(case.checkpoint)))
    build = compile_model(source, tmp_path / "build", variant="stacked")
    weights = (build / "weights.py").read_text()
    assert '"model.layers.{i}.mlp.experts.gate_up_proj"' in weights
    assert "stack(" not in weights
    model = builds.load(build, source)
    expected = reference.read(case.reference)
    assert parity.prompt(model, expected) <= parity.TOLERANCE


def test_names_without_the_prefix(tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME["glm4_moe-air"])
    tensors = tensors_of(case.checkpoint)
    short = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    source = save(case, tmp_path / "short", short)
    model = builds.load(compile_model(source, tmp_path / "build"), source)
    expected = reference.read(case.reference)
    assert parity.prompt(model, expected) <= parity.TOLERANCE


def test_layers_that_predict_further_tokens(tiny: MakeTiny, tmp_path: Path) -> None:
    """Waived by index, from the last layer on; a spare tensor before it is not."""
    case = tiny(BY_NAME["glm4_moe_lite-flash"])
    tensors = tensors_of(case.checkpoint)
    more = {f"model.layers.{n}.eh_proj.weight": torch.ones(3) for n in (3, 9, 10, 47)}
    source = save(case, tmp_path / "more", tensors | more)
    build = compile_model(source, tmp_path / "build")
    assert builds.load(build, source)
    wrong = {"model.layers.2.eh_proj.weight": torch.ones(3)}
    source = save(case, tmp_path / "wrong", tensors | wrong)
    with pytest.raises(ValueError, match=r"not used by this model.*layers\.2\.eh_proj"):
        builds.load(build, source)


@pytest.mark.parametrize("change", ["lacks", "shape"])
def test_one_bad_expert_is_named(change: str, tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME["glm4_moe-air"])
    tensors = tensors_of(case.checkpoint)
    name = "model.layers.2.mlp.experts.5.up_proj.weight"
    if change == "lacks":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:-1]
    source = save(case, tmp_path / "bad", tensors)
    build = compile_model(case.checkpoint, tmp_path / "build")
    with pytest.raises(ValueError, match=r"experts"):
        builds.load(build, source)
    headers = {
        key: TensorInfo("F32", tuple(tensor.shape), "model.safetensors")
        for key, tensor in tensors.items()
    }
    compiled = compile_files(case.checkpoint, Options())
    found = account(compiled.loaded.model, compiled.stages[-1].program, headers)
    assert found.missing + list(found.wrong) == [name]


def test_routers_stay_in_fp32(tiny: MakeTiny, tmp_path: Path) -> None:
    case = tiny(BY_NAME["glm_moe_dsa-selects"])
    build = builds.import_build(compile_model(case.checkpoint, tmp_path / "build"))
    model = build.load(case.checkpoint, device="cpu", dtype="bfloat16")
    exact = {
        name.rpartition(".")[2]
        for name, weight in model.named_parameters()
        if weight.dtype == torch.float32
    }
    assert exact == {
        "mlp_gate",
        "gate_e_score_correction_bias",
        "indexer_weights_proj",
    }
    with torch.no_grad():
        logits = model(input_ids=torch.arange(12)[None]).logits
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()


# GLM-5.2 as published, without the keys that repeat defaults.
GLM_5_2 = {
    "architectures": ["GlmMoeDsaForCausalLM"],
    "model_type": "glm_moe_dsa",
    "dtype": "bfloat16",
    "hidden_size": 6144,
    "index_share_for_mtp_iteration": True,
    "index_skip_topk_offset": 3,
    "index_topk_freq": 4,
    "indexer_rope_interleave": True,
    "intermediate_size": 12288,
    "max_position_embeddings": 1048576,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "moe_router_dtype": "float32",
    "num_attention_heads": 64,
    "num_hidden_layers": 78,
    "num_nextn_predict_layers": 1,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 8000000, "rope_type": "default"},
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "vocab_size": 154880,
}


def test_a_build_grows_neither_with_layers_nor_with_experts(tmp_path: Path) -> None:
    sizes = {}
    for layers, experts in ((78, 256), (38, 64)):
        config = GLM_5_2 | {"num_hidden_layers": layers, "n_routed_experts": experts}
        source = edits.write_config(tmp_path / f"{layers}", config)
        files = compile_files(source, Options()).files
        sizes[layers] = [len(files[name]) for name in ("model.py", "weights.py")]
    # Numbers may have a digit more.
    pairs = zip(sizes[78], sizes[38], strict=True)
    assert all(abs(many - few) < 100 for many, few in pairs), sizes


def test_layers_share_what_an_indexer_selects(tmp_path: Path) -> None:
    source = edits.write_config(tmp_path / "glm-5.2", GLM_5_2)
    blocks = compile_files(source, Options()).loaded.model.blocks
    assert [(block.name, block.layers[:3], len(block.layers)) for block in blocks] == [
        ("dense_layer", (0, 1, 2), 3),
        ("moe_shared_layer", (3, 4, 5), 57),
        ("moe_layer", (6, 10, 14), 18),
    ]
    listed = ["full", "shared"] * 39
    source = edits.write_config(tmp_path / "own", GLM_5_2 | {"indexer_types": listed})
    blocks = compile_files(source, Options()).loaded.model.blocks
    assert [block.name for block in blocks][:2] == ["dense_layer", "dense_shared_layer"]
