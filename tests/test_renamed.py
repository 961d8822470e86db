"""Formats that came with code of their own: a model that transformers has, renamed.

The checkpoint of a twin is written again under the names that were published, and the
build must answer as the twin does. This proves what a spec computes and how it reads
tensors; that the names are the published ones is not proved here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc import compile_model
from glmc.look.builds import Build
from support import builds, edits, reference
from support import tiny as tinies
from support.measured import Record, record
from support.parity import SCENARIOS, TOLERANCE
from support.variants import Tiny, Variant

Tensors = dict[str, torch.Tensor]

PHI = Variant("phi", "for_mixformer", {"num_key_value_heads": 4})
QWEN2 = Variant("qwen2", "for_molmo")
PHI3 = Variant("phi3", "for_internvl")
LLAMA = Variant("llama", "for_decilm", {"intermediate_size": 256})
XVERSE = Variant("llama", "for_xverse")
# With gated feed-forwards, LayerNorm and no biases.
STABLELM = Variant(
    "stablelm",
    "for_orion",
    {
        "rope_parameters": {"rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        "use_qkv_bias": False,
        "layer_norm_eps": 2e-2,
    },
)
MIMO = Variant("qwen2", "for_mimo")
QWEN3 = Variant("qwen3", "for_qianfan")


@dataclass(frozen=True)
class Renamed:
    """A published format: the twin, its config and its tensors."""

    twin: Variant
    config: Callable[[dict[str, Any]], dict[str, Any]]
    tensors: Callable[[Tensors], Tensors]


def renamed(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    """Tensors under other names; patterns are tried in order, the first counts."""
    made = {}
    for name, tensor in tensors.items():
        pattern = next(p for p in names if re.fullmatch(p, name))
        made[re.sub(pattern, names[pattern], name)] = tensor.clone()
    return made


def fused(tensors: Tensors, parts: tuple[str, ...], whole: str) -> Tensors:
    """Tensors whose names differ in ``parts`` only as one, rows one after another."""
    made = dict(tensors)
    for name in [n for n in tensors if parts[0] in n]:
        each = [made.pop(name.replace(parts[0], part)) for part in parts]
        made[name.replace(parts[0], whole)] = torch.cat(each)
    return made


def mixformer_config(config: dict[str, Any]) -> dict[str, Any]:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    return {
        "model_type": "mixformer-sequential",
        "architectures": ["MixFormerSequentialForCausalLM"],
        "vocab_size": config["vocab_size"],
        "n_embd": config["hidden_size"],
        "n_inner": config["intermediate_size"],
        "n_head": config["num_attention_heads"],
        "n_layer": config["num_hidden_layers"],
        "n_positions": config["max_position_embeddings"],
        "layer_norm_epsilon": config["layer_norm_eps"],
        "activation_function": config["hidden_act"],
        "rotary_dim": int(
            config["rope_parameters"]["partial_rotary_factor"] * head_dim
        ),
    }


def mixformer_tensors(tensors: Tensors) -> Tensors:
    qkv = ("q_proj", "k_proj", "v_proj")
    tensors = fused(tensors, tuple(f"self_attn.{n}" for n in qkv), "mixer.Wqkv")
    count = sum(".input_layernorm.weight" in name for name in tensors)
    # The embedding is layer 0 and the head the one after the last.
    shifted = {
        re.sub(r"layers\.(\d+)", lambda at: f"layers.{int(at[1]) + 1}", name): tensor
        for name, tensor in tensors.items()
    }
    names = {
        r"model\.embed_tokens(.*)": r"layers.0.wte\1",
        r"model\.final_layernorm(.*)": rf"layers.{count + 1}.ln\1",
        r"lm_head(.*)": rf"layers.{count + 1}.linear\1",
        r"model\.(.*)input_layernorm(.*)": r"\1ln\2",
        r"model\.(.*)self_attn\.dense(.*)": r"\1mixer.out_proj\2",
        r"model\.(.*)": r"\1",
    }
    return renamed(shifted, names)


def molmo_config(config: dict[str, Any]) -> dict[str, Any]:
    kept = ("vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers")
    more = ("num_key_value_heads", "max_position_embeddings", "tie_word_embeddings")
    return {
        **{key: config[key] for key in (*kept, *more)},
        "model_type": "molmo",
        "architectures": ["MolmoForCausalLM"],
        "embedding_size": config["vocab_size"],
        "intermediate_size": 2 * config["intermediate_size"],
        "layer_norm_eps": config["rms_norm_eps"],
        "layer_norm_type": "rms",
        "qkv_bias": True,
        "rope_theta": config["rope_parameters"]["rope_theta"],
    }


def molmo_tensors(tensors: Tensors) -> Tensors:
    qkv = ("q_proj", "k_proj", "v_proj")
    tensors = fused(tensors, tuple(f"self_attn.{n}" for n in qkv), "att_proj")
    tensors = fused(tensors, ("mlp.up_proj", "mlp.gate_proj"), "ff_proj")
    names = {
        r"model\.embed_tokens\.weight": "model.transformer.wte.embedding",
        r"model\.norm(.*)": r"model.transformer.ln_f\1",
        r"lm_head(.*)": r"model.transformer.ff_out\1",
        r"model\.layers(.*)input_layernorm(.*)": (
            r"model.transformer.blocks\1attn_norm\2"
        ),
        r"model\.layers(.*)post_attention_layernorm(.*)": (
            r"model.transformer.blocks\1ff_norm\2"
        ),
        r"model\.layers(.*)self_attn\.o_proj(.*)": (
            r"model.transformer.blocks\1attn_out\2"
        ),
        r"model\.layers(.*)mlp\.down_proj(.*)": r"model.transformer.blocks\1ff_out\2",
        r"model\.layers(.*)": r"model.transformer.blocks\1",
    }
    made = renamed(tensors, names)
    width = made["model.transformer.wte.embedding"].shape[1]
    made["model.transformer.wte.new_embedding"] = torch.zeros(3, width)
    return made


def internvl_config(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "llm_config": config,
        "vision_config": {},
    }


def internvl_tensors(tensors: Tensors) -> Tensors:
    return renamed(tensors, {r"(.+)": r"language_model.\1"})


def decilm_config(config: dict[str, Any]) -> dict[str, Any]:
    """The twin's layers, then one that is skipped, and matrices for both sublayers."""
    group = config["num_attention_heads"] // config["num_key_value_heads"]
    attention = {"n_heads_in_group": group, "no_op": False}
    ffn = {"ffn_mult": 4.0, "no_op": False}  # 2 / 3 of it, up to a multiple of 256
    layer = {"attention": attention, "ffn": ffn}
    nothing = {"attention": {"no_op": True}, "ffn": {"no_op": True}}
    mapped = {
        "attention": {"replace_with_linear": True},
        "ffn": {"replace_with_linear": True},
    }
    alone = {"attention": {"no_op": True}, "ffn": {"replace_with_linear": True}}
    extra = ("num_key_value_heads", "intermediate_size", "model_type", "architectures")
    return {
        **{k: v for k, v in config.items() if k not in extra},
        "model_type": "nemotron-nas",
        "architectures": ["DeciLMForCausalLM"],
        "num_hidden_layers": 6,
        "block_configs": [layer, nothing, layer, mapped, alone, layer],
    }


def decilm_tensors(tensors: Tensors) -> Tensors:
    """Matrices of zeros in the places that the twin does not have."""
    names = {
        rf"(.*layers\.){old}(\..*)": rf"\g<1>{new}\2"
        for old, new in ((2, 5), (1, 2), (0, 0))
    }
    made = renamed(tensors, {**names, r"(.+)": r"\1"})
    width = made["model.norm.weight"].shape[0]
    for layer, matrix, norm in (
        (3, "self_attn.linear_attn", "input_layernorm"),
        (3, "mlp.linear_mlp", "post_attention_layernorm"),
        (4, "mlp.linear_mlp", "post_attention_layernorm"),
    ):
        made[f"model.layers.{layer}.{matrix}.weight"] = torch.zeros(width, width)
        made[f"model.layers.{layer}.{norm}.weight"] = torch.ones(width)
    return made


def orion_config(config: dict[str, Any]) -> dict[str, Any]:
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    more = ("num_key_value_heads", "num_hidden_layers", "max_position_embeddings")
    return {
        **{key: config[key] for key in (*kept, *more, "hidden_act")},
        "model_type": "orion",
        "architectures": ["OrionForCausalLM"],
        "attention_bias": False,
        "max_sequence_length": 4096,
        "rms_norm_eps": config["layer_norm_eps"],
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "rope_scaling": None,
        "tie_word_embeddings": False,
    }


def mimo_config(config: dict[str, Any]) -> dict[str, Any]:
    return {
        **config,
        "model_type": "mimo",
        "architectures": ["MiMoForCausalLM"],
        "attention_bias": True,
        "num_nextn_predict_layers": 1,
    }


def mimo_tensors(tensors: Tensors) -> Tensors:
    """A layer for speculation beside the twin's."""
    width = tensors["model.norm.weight"].shape[0]
    layer = "model.mtp_layers.0."
    return tensors | {
        layer + "input_proj.weight": torch.zeros(width, 2 * width),
        layer + "final_layernorm.weight": torch.ones(width),
    }


def xverse_config(config: dict[str, Any]) -> dict[str, Any]:
    extra = ("attention_bias", "mlp_bias", "head_dim", "pretraining_tp")
    return {
        **{k: v for k, v in config.items() if k not in extra},
        "model_type": "xverse",
        "architectures": ["XverseForCausalLM"],
        "max_tokenizer_truncation": 6144,
    }


def qianfan_config(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "qianfan_ocr",
        "architectures": ["QianfanOCRForConditionalGeneration"],
        "text_config": config,
        "vision_config": {},
        "tie_word_embeddings": False,
    }


FORMATS: Mapping[str, Renamed] = {
    # transformers 5 itself saves its layers under a name that belongs to vision.
    "qianfan": Renamed(QWEN3, qianfan_config, internvl_tensors),
    "mimo": Renamed(MIMO, mimo_config, mimo_tensors),
    "orion": Renamed(STABLELM, orion_config, dict),
    "xverse": Renamed(XVERSE, xverse_config, dict),
    "mixformer": Renamed(PHI, mixformer_config, mixformer_tensors),
    "molmo": Renamed(QWEN2, molmo_config, molmo_tensors),
    "internvl": Renamed(PHI3, internvl_config, internvl_tensors),
    "decilm": Renamed(LLAMA, decilm_config, decilm_tensors),
}


def written(case: Tiny, form: Renamed, folder: Path) -> Path:
    """The checkpoint of a twin in the format."""
    folder.mkdir()
    config = form.config(edits.read_config(case.checkpoint))
    config["torch_dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config))
    tensors = form.tensors(tinies.tensors_of(case.checkpoint))
    save_file(
        {k: t.contiguous() for k, t in tensors.items()}, folder / "model.safetensors"
    )
    return folder


@pytest.fixture(scope="module")
def published(
    tiny: Callable[[Variant], Tiny], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("published")
    return lru_cache(
        lambda name: written(tiny(FORMATS[name].twin), FORMATS[name], root / name)
    )


@pytest.mark.parametrize("scenario", ["prompt", "decode", "padded"])
@pytest.mark.parametrize("name", FORMATS)
def test_logits(
    name: str,
    scenario: str,
    tiny: Callable[[Variant], Tiny],
    published: Callable[[str], Path],
    compiled: Callable[[Path], Path],
    record_property: Record,
) -> None:
    case, checkpoint = tiny(FORMATS[name].twin), published(name)
    build = compiled(checkpoint)
    model = builds.load(build, checkpoint)
    worst = SCENARIOS[scenario](model, reference.read(case.reference))
    if "unverified" not in Build(build).manifest:
        record(record_property, build, "transformers", scenario, worst)
    assert worst <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("molmo", "weights: {up+gate: null, gate+up: {name: ff_proj,"
                  " layout: '[gate:F|up:F] E'}}"),
        ("mixformer-sequential", "ops: {attn: {rope: {style: interleaved}}}"),
        ("nemotron-nas", "ops: {attn: {rope: {style: interleaved}}}"),
        ("orion", "ops: {attn: {rope: {style: interleaved}}}"),
        ("mimo", "ops: {attn: {rope: {style: interleaved}}}"),
        ("xverse", "ops: {attn: {rope: {style: interleaved}}}"),
    ],
)  # fmt: skip
def test_control_a_wrong_spec_shows(
    name: str, mistake: str, tiny: Callable[[Variant], Tiny], tmp_path: Path
) -> None:
    kinds = {"mixformer-sequential": "mixformer", "nemotron-nas": "decilm"}
    form = FORMATS[kinds.get(name, name)]
    case = tiny(form.twin)
    checkpoint = written(case, form, tmp_path / "checkpoint")
    spec = tmp_path / "wrong.yaml"
    spec.write_text(f"extends: {name}\n{mistake}\n")
    build = compile_model(checkpoint, tmp_path / "build", spec=spec)
    model = builds.load(build, checkpoint)
    expected = reference.read(case.reference)
    assert SCENARIOS["prompt"](model, expected) > 10 * TOLERANCE
