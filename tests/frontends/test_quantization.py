"""Quantisation in configs: which tensors are stored how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from glmc.backends.runtime.tensor_info import TensorInfo, size_in_bytes
from glmc.compile.accounting import account, needed
from glmc.frontends.quantization.modules import Modules
from glmc.ir import model as m
from glmc.ir.lower import lower
from glmc.ir.text import parse_model, parse_program, print_model, print_program
from support import hub_formats
from support.configs import CHATGLM, GLM4, GLM4_MOE, GPT2, LLAMA
from support.loading import Load, Refusal
from support.stages import run

FP8: Mapping[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
# chatglm2-6b-int4 as it is published.
INT4 = CHATGLM | {
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "quantization_bit": 4,
    "seq_length": 32768,
    "torch_dtype": "float16",
}


def published_int4() -> dict[str, TensorInfo]:
    """The 312 tensors of its one file."""
    found = {
        "transformer.embedding.word_embeddings.weight": ("F16", (65024, 4096)),
        "transformer.rotary_pos_emb.inv_freq": ("F16", (32,)),
        "transformer.encoder.final_layernorm.weight": ("F16", (4096,)),
        "transformer.output_layer.weight": ("F16", (65024, 4096)),
    }
    linears = {
        "self_attention.query_key_value": (4608, 2048),
        "self_attention.dense": (4096, 2048),
        "mlp.dense_h_to_4h": (27392, 2048),
        "mlp.dense_4h_to_h": (4096, 6848),
    }
    for i in range(28):
        layer = f"transformer.encoder.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}{name}.weight"] = ("F16", (4096,))
        found[f"{layer}self_attention.query_key_value.bias"] = ("F16", (4608,))
        for name, shape in linears.items():
            found[f"{layer}{name}.weight"] = ("I8", shape)
            found[f"{layer}{name}.weight_scale"] = ("F16", shape[:1])
    return {
        name: TensorInfo(*info, "pytorch_model.bin") for name, info in found.items()
    }


def test_chatglm2_6b_int4_is_accounted_for(load: Load) -> None:
    headers = published_int4()
    assert len(headers) == 312
    size = sum(size_in_bytes(i.dtype or "", i.shape or ()) for i in headers.values())
    # Its file has 3,923,712,365 bytes, some 350 for each of its tensors beside this.
    assert 0 < 3_923_712_365 - size < 400 * len(headers)
    model = load(INT4).model
    for stage in run(lower(model)):
        found = account(model, stage.program, headers)
        assert (found.ok, found.fault, len(found.bound)) == (True, None, 311)


def test_codes_take_a_quarter(load: Load) -> None:
    stages = list(run(lower(load(INT4).model)))

    def block(at: int) -> int:
        return sum(param.type.nbytes() for param in stages[at].program.blocks[0].params)

    assert 0.249 < block(-1) / block(0) < 0.252
    (entries,) = [s.ledger for s in stages if s.name == "keep-quantized"]
    assert [entry.status for entry in entries] == ["applied"] * 4


def storages(model: m.Model) -> dict[str, m.Storage | None]:
    """Tensor to storage, of every matrix."""
    found = {w.tensor: w.storage for w in (model.embed.weight, model.head.weight)}
    for block in model.blocks:
        for step in block.steps:
            for _, value in step.op:
                if isinstance(value, m.Projection):
                    found[value.weight.tensor] = value.weight.storage
    return found


@pytest.mark.parametrize("embeddings", [None, False, True])
def test_rows(load: Load, embeddings: bool | None) -> None:
    config = CHATGLM | {"quantization_bit": 8, "quantization_embeddings": embeddings}
    found = storages(load(config).model)
    ends = {n for n in found if "layers" not in n}
    assert len(ends) == 2
    for name, storage in found.items():
        quantised = embeddings or name not in ends
        assert storage == (m.RowQuantized(bits=8) if quantised else None), name


@pytest.mark.parametrize("bits", [None, 0])
def test_zero_bits_are_floats(load: Load, bits: int | None) -> None:
    found = storages(load(CHATGLM | {"quantization_bit": bits}).model)
    assert set(found.values()) == {None}


@pytest.mark.parametrize("config", [LLAMA, GLM4])
def test_blocks(load: Load, config: dict[str, Any]) -> None:
    skipped = ["lm_head", *(f"model.layers.{i}.mlp" for i in range(4))]
    skipped += ["model.layers.0.self_attn.o_proj", "q_proj"]
    quantisation = {**FP8, "modules_to_not_convert": skipped}
    found = storages(load(config | {"quantization_config": quantisation}).model)
    named = {name.split(".")[-2] for name, storage in found.items() if storage}
    # The end of a path leaves a module out, a path for all layers too; one layer not.
    assert named == {"k_proj", "v_proj", "o_proj"}


def test_lists_name_each_expert(load: Load) -> None:
    experts = [f"mlp.experts.{x}" for x in range(GLM4_MOE["n_routed_experts"])]
    listed = [f"model.layers.{i}.{x}.up_proj" for i in range(1, 4) for x in experts]
    skipped = [*listed, *(f"model.layers.{i}.mlp.gate" for i in range(1, 4))]
    # Lists of what was published are tens of thousands of characters long.
    skipped += [f"model.layers.{i}.input_layernorm" for i in range(1, 2000)]
    quantisation = {**FP8, "modules_to_not_convert": skipped}
    found = load(GLM4_MOE | {"quantization_config": quantisation}).model.blocks[1]
    moe = found.steps[1].op
    assert isinstance(moe, m.Moe)
    assert moe.gate.storage == moe.down.storage == m.BlockQuantized()
    assert moe.up.storage is moe.router.weight.storage is None


def test_only_some_families_have_a_format(refusal: Refusal) -> None:
    message = refusal(GPT2 | {"quantization_config": dict(FP8)})
    assert "quantization_config" in message
    assert "unquantised" in message


@pytest.mark.parametrize(
    "config",
    [
        CHATGLM | {"quantization_bit": 4, "quantization_embeddings": True},
        LLAMA | {"quantization_config": dict(FP8)},
    ],
)
def test_the_text_form_holds_it(load: Load, config: dict[str, Any]) -> None:
    model = load(config).model
    assert parse_model(print_model(model)) == model
    for stage in run(lower(model)):
        assert parse_program(print_program(stage.program)) == stage.program


def test_a_tied_head_shares_codes_and_scales(load: Load) -> None:
    """As ChatGLM-6B int4-qe has them: one matrix, read as rows and as a product."""
    model = load(CHATGLM | {"quantization_bit": 4}).model
    weight = model.embed.weight.model_copy(update={"storage": m.RowQuantized(bits=4)})
    tied = model.model_copy(
        update={"embed": m.Embedding(weight=weight), "head": m.Head(weight=weight)}
    )
    program = list(run(lower(tied)))[-1].program
    names = [param.name for param in program.params]
    assert names[:2] == ["word_embeddings", "word_embeddings_scale"]
    (looked_up,) = [op for op in program.stem.ops if op.mnemonic.endswith("embedding")]
    assert looked_up.mnemonic == "quantized_embedding"
    assert program.head.ops[-1].mnemonic == "rms_norm_linear"
    assert looked_up.params == program.head.ops[-1].params[1:] == tuple(names[:2])
    needs = needed(tied, program, {})
    assert math.prod(needs[weight.tensor].shape or ()) * 2 == model.vocab * model.hidden


@pytest.mark.parametrize(
    ("listed", "holds", "not_those"),
    [
        (["lm_head"], ["lm_head", "model.lm_head", "lm_head.inner"], ["head"]),
        (["layers.1"], ["model.layers.1.mlp", "layers.1"], ["model.layers.10.mlp"]),
        (["*.mlp"], ["layers.0.mlp"], ["layers.0.mlp.up"]),
        (["re:.*attn.*"], ["layers.0.attn.q"], ["layers.0.mlp"]),
        ([""], [], ["lm_head", "model.layers.1"]),
        ([], [], ["lm_head"]),
    ],
)
def test_lists_of_modules(
    listed: list[str], holds: list[str], not_those: list[str]
) -> None:
    found = Modules.of(listed)
    assert bool(found) == bool(listed)
    assert [name for name in [*holds, *not_those] if found.hold(name)] == holds
    for name in (*holds, *not_those):
        assert found.hold_in_all(name, range(2)) == (name in holds)


@pytest.mark.parametrize("ignored", [[], ["lm_head"], ["re:.*head"]])
def test_a_head_is_stored_as_other_layers_unless_it_is_ignored(
    ignored: list[str], load: Load
) -> None:
    """Of compressed-tensors, whose targets say all linear layers."""
    stored = hub_formats.compressed("int-quantized", num_bits=8, strategy="channel")
    config = LLAMA | {"quantization_config": {**stored, "ignore": ignored}}
    model = load(config | {"tie_word_embeddings": False}).model
    assert model.head
    assert model.head.weight
    assert (model.head.weight.storage is None) == bool(ignored)
