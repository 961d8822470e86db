"""The families: what each spec says of small configs, in every dialect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import load_model
from glmc.ir import model as m
from glmc.ir.lower import lower
from support.configs import (
    BERT,
    CHATGLM,
    FAMILIES,
    GLM,
    GLM4,
    GPT2,
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    Config,
)
from support.loading import Load


def attention(model: m.Model, block: int = 0) -> m.Attention:
    op = model.blocks[block].steps[0].op
    assert isinstance(op, m.Attention)
    return op


def mlp(model: m.Model) -> m.Mlp:
    op = model.blocks[0].steps[1].op
    assert isinstance(op, m.Mlp)
    return op


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_lowers(load: Load, family: str) -> None:
    """Names, layouts and sizes fit together."""
    program = lower(load(FAMILIES[family]).model)
    assert sum(len(block.layers) for block in program.blocks) in range(2, 6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_without_model_type_is_known_by_its_class(
    load: Load, family: str
) -> None:
    config = {k: v for k, v in FAMILIES[family].items() if k != "model_type"}
    assert load(config).spec == family


def test_llama(load: Load) -> None:
    model = load(LLAMA).model
    assert (model.name, model.dtype, model.optional_prefix) == (
        "llama",
        "bf16",
        "model.",
    )
    (block,) = model.blocks
    assert (block.name, block.layers) == ("layer", (0, 1, 2, 3))
    op = attention(model)
    assert (op.heads, op.kv_heads, op.head_dim, op.scale) == (4, 2, 16, 0.25)
    assert op.q.weight.tensor == "model.layers.{i}.self_attn.q_proj.weight"
    assert op.q.bias is op.o.bias is mlp(model).gate.bias is None  # type: ignore[union-attr]
    assert model.head.weight.tensor == "lm_head.weight"


def test_llama_with_everything(load: Load) -> None:
    more = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    model = load(LLAMA | more | {"head_dim": 32}).model
    assert attention(model).head_dim == 32
    for slot in ("q", "k", "v", "o"):
        bias = getattr(attention(model), slot).bias
        assert bias.tensor == f"model.layers.{{i}}.self_attn.{slot}_proj.bias"
    assert mlp(model).down.bias
    assert model.head.weight == model.embed.weight
    assert any(waiver.pattern == "lm_head.weight" for waiver in model.waivers)


def test_mistral(load: Load) -> None:
    assert attention(load(MISTRAL).model).window == 4096
    assert attention(load(MISTRAL | {"sliding_window": None}).model).window is None


@pytest.mark.parametrize("config", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_windows_of_qwen(load: Load, config: Config) -> None:
    plain = load(config | {"sliding_window": 8}).model
    assert [(b.name, b.layers) for b in plain.blocks] == [("layer", (0, 1, 2, 3))]
    assert attention(plain).window is None
    more = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    model = load(config | more).model
    kinds = [(b.name, b.layers) for b in model.blocks]
    assert kinds == [("full_layer", (0, 1)), ("sliding_layer", (2, 3))]
    assert [attention(model, n).window for n in (0, 1)] == [None, 8]
    types = ["sliding_attention", "full_attention"] * 2
    model = load(config | more | {"layer_types": types}).model
    kinds = [(b.name, b.layers) for b in model.blocks]
    assert kinds == [("sliding_layer", (0, 2)), ("full_layer", (1, 3))]


def test_biases_of_qwen(load: Load) -> None:
    two, three = (attention(load(config).model) for config in (QWEN2, QWEN3))
    assert two.q.bias
    assert two.k.bias
    assert two.v.bias
    assert two.o.bias is three.q.bias is None
    assert two.q_norm is None
    assert three.q_norm
    assert three.q_norm.weight.tensor == "model.layers.{i}.self_attn.q_norm.weight"
    assert three.head_dim == 128
    assert attention(load(QWEN3 | {"attention_bias": True}).model).o.bias


def test_glm(load: Load) -> None:
    model = load(GLM).model
    op = attention(model)
    assert op.rope
    assert (op.rope.dim, op.rope.style, op.head_dim) == (64, "interleaved", 128)
    assert op.q.bias
    assert op.o.bias is None
    gate = mlp(model).gate
    assert gate
    assert gate.weight == m.Weight(
        tensor="model.layers.{i}.mlp.gate_up_proj.weight",
        layout="[gate:F|up:F] E",
        part="gate",
    )
    assert attention(load(GLM | {"attention_bias": False}).model).q.bias is None


def test_glm4_has_norms_on_both_sides(load: Load) -> None:
    names = [
        norm.weight.tensor.removeprefix("model.layers.{i}.").removesuffix(".weight")
        for step in load(GLM4).model.blocks[0].steps
        for norm in (step.pre, step.post)
        if norm
    ]
    assert names == [
        "input_layernorm",
        "post_self_attn_layernorm",
        "post_attention_layernorm",
        "post_mlp_layernorm",
    ]


def test_gpt2(load: Load) -> None:
    model = load(GPT2).model
    op = attention(model)
    assert op.rope is None
    assert op.k.weight.layout == "E [q:(H D)|k:(K D)|v:(K D)]"
    assert op.k.bias
    assert (op.k.bias.layout, op.k.bias.part) == ("[q:(H D)|k:(K D)|v:(K D)]", "k")
    assert op.o.bias
    assert op.o.bias.layout == "E"
    assert (mlp(model).gate, mlp(model).act, mlp(model).ff) == (None, "gelu_tanh", 256)
    assert model.embed.positions
    assert model.embed.positions.tensor == "transformer.wpe.weight"
    assert model.head.weight == model.embed.weight
    assert model.final_norm
    assert model.final_norm.bias


def test_gpt2_scales(load: Load) -> None:
    model = load(GPT2 | {"scale_attn_by_inverse_layer_idx": True}).model
    assert [b.name for b in model.blocks] == ["layer_1", "layer_2", "layer_3"]
    scales = [attention(model, n).scale for n in range(3)]
    assert scales == [0.25, 0.125, 0.25 / 3]
    assert attention(load(GPT2 | {"scale_attn_weights": False}).model).scale == 1


def test_gpt2_under_the_names_of_other_configs(load: Load) -> None:
    names = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers"}
    config = {names.get(key, key): value for key, value in GPT2.items()}
    assert load(config).model == load(GPT2).model


def test_chatglm(load: Load) -> None:
    model = load(CHATGLM).model
    op = attention(model)
    assert (op.heads, op.kv_heads, op.head_dim) == (4, 2, 16)
    assert op.rope
    assert (op.rope.dim, op.rope.style) == (8, "interleaved")
    assert op.q.weight.layout == "[q:(H D)|k:(K D)|v:(K D)] E"
    assert op.q.bias
    assert op.o.bias is None
    assert model.blocks[0].steps[0].pre
    assert model.blocks[0].steps[0].pre.weight_in == "f32"
    assert model.final_norm
    assert load(CHATGLM | {"post_layer_norm": False}).model.final_norm is None
    assert attention(load(CHATGLM | {"add_qkv_bias": False}).model).q.bias is None


def test_chatglm_with_a_key_for_each_head(load: Load) -> None:
    op = attention(load(CHATGLM | {"multi_query_attention": False}).model)
    assert op.kv_heads == op.heads
    assert op.v.weight.layout == "(H [q:D|k:D|v:D]) E"


def test_bert(load: Load) -> None:
    model = load(BERT).model
    assert model.is_encoder
    assert attention(model).mask == "full"
    assert [(s.pre, s.post, bool(s.after)) for s in model.blocks[0].steps] == [
        (None, None, True),
        (None, None, True),
    ]
    assert (model.type_vocab, model.max_positions) == (2, 512)
    assert model.embed.norm
    assert isinstance(model.head, m.Pooler)
    assert model.head.act == "tanh"


def test_variants_of_bert(load: Load) -> None:
    bare = load(BERT | {"add_pooling_layer": False})
    assert (bare.variant, bare.model.head) == ("no-pooler", None)
    masked = load(BERT | {"architectures": ["BertForMaskedLM"]})
    head = masked.model.head
    assert isinstance(head, m.Head)
    assert head.transform
    assert head.weight == masked.model.embed.weight
    assert head.bias
    assert head.bias.tensor == "cls.predictions.bias"
    untied = {"architectures": ["BertForMaskedLM"], "tie_word_embeddings": False}
    head = load(BERT | untied).model.head
    assert isinstance(head, m.Head)
    assert head.bias
    assert head.bias.tensor == "cls.predictions.decoder.bias"


CLASSES = {
    "bert": "BertConfig",
    "llama": "LlamaConfig",
    "mistral": "MistralConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "glm": "GlmConfig",
    "glm4": "Glm4Config",
    "glm4_moe": "Glm4MoeConfig",
    "glm4_moe_lite": "Glm4MoeLiteConfig",
    "glm_moe_dsa": "GlmMoeDsaConfig",
    "gpt2": "GPT2Config",
}


@pytest.mark.parametrize("family", CLASSES)
def test_configs_that_transformers_saves(
    load: Load, family: str, tmp_path: Path
) -> None:
    """A sparse file and what transformers makes of it describe the same model."""
    import transformers

    sparse = FAMILIES[family] | {"torch_dtype": "float32"}
    given = {k: v for k, v in sparse.items() if k not in ("model_type", "torch_dtype")}
    config = getattr(transformers, CLASSES[family])(**given)
    config.dtype = "float32"
    config.save_pretrained(tmp_path / "saved")
    saved = load_model(resolve_source(str(tmp_path / "saved")))
    ours = load(sparse)
    assert neutral(saved.model) == neutral(ours.model)
    assert set(saved.keys) == set(json.loads(saved.source.config_path.read_text()))


def neutral(model: m.Model) -> m.Model:
    """Without token ids: transformers has class defaults for them, checkpoints not."""
    return model.model_copy(update={"tokens": m.Tokens()})


@pytest.mark.parametrize("family", CLASSES)
def test_defaults_are_those_of_transformers(load: Load, family: str) -> None:
    import transformers

    windows = {"use_sliding_window": True} if "qwen" in family else {}
    theirs = getattr(transformers, CLASSES[family])(**windows)
    for key, value in load(FAMILIES[family]).assumed.items():
        if key == "partial_rotary_factor":
            assert theirs.rope_parameters[key] == value
        elif value is not None and key not in windows:
            assert getattr(theirs, key) == value, key


VERSION_4: dict[str, Any] = {
    "_name_or_path": "org/name",
    "bad_words_ids": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "do_sample": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False,
    "is_encoder_decoder": False,
    "max_length": 20,
    "output_hidden_states": False,
    "pruned_heads": {},
    "return_dict": True,
    "temperature": 1.0,
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "torchscript": False,
    "transformers_version": "4.27.1",
    "use_bfloat16": False,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_configs_that_repeat_all_defaults(load: Load, family: str) -> None:
    assert load(VERSION_4 | FAMILIES[family]).model == load(FAMILIES[family]).model
