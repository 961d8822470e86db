"""Every key of a config is consumed, ignored for a reason, or refused by name."""

from __future__ import annotations

import json
import math

import pytest

from support.configs import CHATGLM, FAMILIES, GLM4_MOE, GPT2, LLAMA, MISTRAL, QWEN2
from support.loading import Load, Refusal

# As the first Falcon-40B has it, at another size: no key says that it is the new one.
FALCON_40B: dict[str, object] = {
    "model_type": "RefinedWeb",
    "architectures": ["RWForCausalLM"],
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "bias": False,
    "hidden_size": 64,
    "layer_norm_epsilon": 1e-5,
    "n_head": 8,
    "n_head_kv": 2,
    "n_layer": 3,
    "parallel_attn": True,
    "vocab_size": 128,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_has_a_fate(load: Load, family: str) -> None:
    config = FAMILIES[family] | {"use_cache": True, "_name_or_path": "chatglm2"}
    keys = load(config).keys
    part: dict[str, object] = config.pop("text_config", config.pop("llm_config", {}))
    assert set(keys) == set(config | part)
    assert keys["use_cache"].status == "ignored"
    assert keys["model_type"].status == "consumed"
    assert all(fate.reason and fate.where for fate in keys.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_key_is_refused(load: Load, refusal: Refusal, family: str) -> None:
    config = FAMILIES[family] | {"planted": 3, "other\nplant": [1]}
    message = refusal(config)
    assert "planted (3)" in message
    assert r"'other\nplant' ([1])" in message
    assert "--ignore-key planted" in message
    keys = load(config, ignore_keys=["planted", "other\nplant"]).keys
    assert keys["planted"].status == "ignored"
    assert keys["planted"].where == "--ignore-key planted"


def test_a_misspelt_key_brings_the_right_one(refusal: Refusal) -> None:
    message = refusal(LLAMA | {"rms_norm_epss": 1e-5})
    assert "did you mean rms_norm_eps?" in message


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", []])
def test_a_key_that_is_off_has_a_fate_of_its_own(load: Load, value: object) -> None:
    loaded = load(LLAMA | {"planted": value})
    assert loaded.keys["planted"].status == "off"
    assert "does not know it" in loaded.keys["planted"].reason
    assert loaded.model == load(LLAMA).model


@pytest.mark.parametrize("value", [True, 1, -1, 0.5, "x", [0], {}, {"a": 0}, "0"])
def test_control_a_key_that_may_be_on_is_refused(
    refusal: Refusal, value: object
) -> None:
    assert "does not know the config key planted" in refusal(LLAMA | {"planted": value})


def test_control_off_is_not_for_slips(refusal: Refusal) -> None:
    """A key that a user sets should have an effect, and a misspelt key another one."""
    assert "planted" in refusal(LLAMA, sets=["planted=false"])
    message = refusal(LLAMA | {"tie_word_embedding": False})
    assert "did you mean tie_word_embeddings?" in message


def test_off_within_a_text_part(load: Load, refusal: Refusal) -> None:
    emu3 = FAMILIES["emu3"]
    part = {**emu3["text_config"], "planted": 0}
    assert load(emu3 | {"text_config": part}).keys["planted"].status == "off"
    assert "planted (1)" in refusal(emu3 | {"text_config": part | {"planted": 1}})


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bloom", "gemma"])
@pytest.mark.parametrize(
    ("key", "value", "status"),
    [
        ("max_sequence_length", 2048, "ignored"),
        ("mup_denominator", 32, "ignored"),
        ("output_router_logits", True, "ignored"),
        ("router_aux_loss_coef", 0.01, "ignored"),
        ("use_bidirectional_attention", False, "consumed"),
    ],
)
def test_what_every_spec_knows(
    load: Load, family: str, key: str, value: object, status: str
) -> None:
    assert load(FAMILIES[family] | {key: value}).keys[key].status == status


def test_control_attention_in_both_directions_is_refused(refusal: Refusal) -> None:
    message = refusal(LLAMA | {"use_bidirectional_attention": True})
    assert "use_bidirectional_attention is true" in message


@pytest.mark.parametrize(
    ("config", "key", "other"),
    [
        (LLAMA, "num_hidden_layers", "num_layers"),
        (LLAMA, "num_hidden_layers", "n_layer"),
        (GPT2, "n_layer", "num_layers"),
        (CHATGLM, "num_layers", "n_layers"),
    ],
)
def test_a_layer_count_under_another_name(
    refusal: Refusal, config: dict[str, object], key: str, other: str
) -> None:
    moved = {name: value for name, value in config.items() if name != key}
    message = refusal(moved | {other: 3})
    named = f"other models call {other} is {key} here"
    assert named in message or f"did you mean {key}?" in message
    told = refusal(config, sets=[f"{other}=3"])
    assert f"{key}=3" in told or f"did you mean {key}?" in told


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_pass_where_nothing_reads_them(
    load: Load, refusal: Refusal, value: float
) -> None:
    """Python's json writes them, and configs have them for layers that are not ours."""
    config = LLAMA | {"time_step_limit": [0.0, value]}
    assert load(config, ignore_keys=["time_step_limit"]).model
    assert "does not know the config key time_step_limit" in refusal(config)
    for key in ("rms_norm_eps", "rope_theta", "bos_token_id", "sliding_window"):
        base = MISTRAL if key == "sliding_window" else LLAMA
        message = refusal(base | {key: value})
        assert f"{key} is {json.dumps(value)}" in message or "beyond" in message
    nested = {"rope_type": "yarn", "factor": value}
    assert "must be finite" in refusal(LLAMA | {"rope_scaling": nested})


def test_an_ignored_key_must_be_there(refusal: Refusal) -> None:
    assert "has no such key" in refusal(LLAMA, ignore_keys=["planted"])


def test_keys_inside_rope_are_accounted_for(load: Load, refusal: Refusal) -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "planted": 1}
    config = LLAMA | {"rope_scaling": rope}
    assert "--ignore-key rope_scaling.planted" in refusal(config)
    assert load(config, ignore_keys=["rope_scaling.planted"]).model


def test_the_first_falcons_are_told_apart(load: Load) -> None:
    """By their types: they have no new_decoder_architecture."""
    today = FALCON_40B | {
        "model_type": "falcon",
        "architectures": ["FalconForCausalLM"],
        "new_decoder_architecture": True,
    }
    first, new = load(FALCON_40B).model, load(today).model
    assert first.blocks == new.blocks
    assert first.blocks[0].steps[0].pre.weight.tensor.endswith("ln_attn.weight")
    small = {k: v for k, v in FALCON_40B.items() if k != "n_head_kv"}
    small |= {"model_type": "RefinedWebModel", "multi_query": True}
    seven = load(small).model
    assert seven.blocks[0].steps[0].op.kv_heads == 1
    old = today | {"new_decoder_architecture": False}
    assert load(old).model.blocks == seven.blocks


def test_head_dim_follows_from_sizes(load: Load) -> None:
    """As transformers derives it, where glm4_moe's config has none."""
    bare = {key: value for key, value in GLM4_MOE.items() if key != "head_dim"}
    assert load(bare).model == load(GLM4_MOE | {"head_dim": 16}).model


def test_a_composite_of_another_text_model_is_refused(refusal: Refusal) -> None:
    """LLaVA was published on several, and a spec is of one of them."""
    llava = FAMILIES["llava"]
    text = {**llava["text_config"], "model_type": "mistral"}
    message = refusal(llava | {"text_config": text})
    assert "whose text part is of type llama, and this one's is another" in message


def test_class_defaults_are_reported(load: Load) -> None:
    assumed = load(LLAMA).assumed
    assert assumed["rms_norm_eps"] == 1e-6
    assert "hidden_size" not in assumed
    assert "rms_norm_eps" not in load(LLAMA | {"rms_norm_eps": 1e-5}).assumed


def test_a_null_is_not_an_absent_key(load: Load) -> None:
    """transformers: an absent sliding_window of mistral is 4096, a null is none."""
    config = LLAMA | {"model_type": "mistral", "architectures": None}
    windows = [
        load(config | more).model.blocks[0].steps[0].op.window
        for more in ({}, {"sliding_window": None}, {"sliding_window": 8})
    ]
    assert windows == [4096, None, 8]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA | {"hidden_size": None}, "hidden_size is missing"),
        (LLAMA | {"hidden_size": "64"}, "hidden_size is '64'; it must be a positive"),
        (LLAMA | {"hidden_size": True}, "hidden_size is true"),
        (LLAMA | {"hidden_size": -64}, "hidden_size is -64"),
        (LLAMA | {"hidden_size": 64.0}, "hidden_size is 64.0"),
        (
            LLAMA | {"hidden_size": 10**12},
            "hidden_size is 1000000000000",
        ),
        (LLAMA | {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        (
            LLAMA | {"num_key_value_heads": 3},
            "must be a multiple of num_key_value_he",
        ),
        (LLAMA | {"hidden_size": 66}, "must be a multiple of num_attention_heads"),
        (LLAMA | {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        (LLAMA | {"hidden_act": "mish"}, "hidden_act is 'mish'"),
        (LLAMA | {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        (LLAMA | {"head_dim": 7}, "7 rotary channels cannot be paired"),
        (LLAMA | {"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quantization_config has the"),
        (
            FALCON_40B | {"model_type": "RefinedWebModel"},
            "only the code of Falcon-40B (RefinedWeb) reads n_head_kv",
        ),
        (LLAMA | {"is_encoder_decoder": True}, "is_encoder_decoder is true"),
        (LLAMA | {"torch_dtype": "float8_e4m3fn"}, "dtype is 'float8_e4m3fn'"),
        (LLAMA | {"dtype": "float16"}, "dtype and torch_dtype disagree"),
        (LLAMA | {"eos_token_id": [1, "x"]}, "eos_token_id must be a token id"),
        (LLAMA | {"model_type": "lama"}, "no spec for 'lama' (nearest: llama"),
        (LLAMA | {"model_type": 3}, "model_type must be a string"),
        (LLAMA | {"architectures": "x"}, "architectures must be a list"),
        (
            LLAMA | {"architectures": ["LlamaForTokenClassification"]},
            "architectures",
        ),
        (
            LLAMA | {"auto_map": {"AutoModelForCausalLM": "m.Other"}},
            "auto_map names",
        ),
        ({"vocab_size": 3}, "names neither model_type nor architectures"),
        (QWEN2 | {"layer_types": ["full_attention"]}, "layer_types must have an entry"),
        (
            QWEN2 | {"layer_types": ["odd"] * 4},
            "must be one of full_attention",
        ),
        (
            QWEN2 | {"layer_types": ["sliding_attention"] * 4},
            "needs sliding_window",
        ),
        (GPT2 | {"hidden_size": 32}, "n_embd is 64 and hidden_size"),
        (GPT2 | {"add_cross_attention": True}, "add_cross_attention is true"),
        (GPT2 | {"n_head": 5}, "n_embd (E) must be a multiple of n_head (H)"),
        (CHATGLM | {"num_hidden_layers": 9}, "num_layers is 3 and num_hidden_layers"),
        (CHATGLM | {"original_rope": False}, "original_rope is false"),
        (CHATGLM | {"rmsnorm": False}, "rmsnorm is false"),
        (CHATGLM | {"quantization_bit": 3}, "quantization_bit is 3"),
        (CHATGLM | {"pre_seq_len": 0}, "pre_seq_len is 0"),
        (CHATGLM | {"pre_seq_len": "x"}, "pre_seq_len is 'x'"),
        (CHATGLM | {"add_qkv_bias": None}, "must be given"),
        ({"model_type": "chatglm", "hidden_size": 64}, "no ChatGLM that glmc knows"),
    ],
)
def test_refused(refusal: Refusal, config: dict[str, object], expected: str) -> None:
    message = refusal(config)
    assert "config.json" in message
    assert expected in message


def test_set_changes_the_config(load: Load, refusal: Refusal) -> None:
    assert load(LLAMA, sets=["num_hidden_layers=7"]).model.layers == 7
    both = CHATGLM | {"num_hidden_layers": 3}
    assert load(both, sets=["num_layers=2"]).model.layers == 2
    assert load(both, sets=["num_hidden_layers=2"]).model.layers == 2
    loaded = load(LLAMA, sets=["rope_scaling.type=linear", "rope_scaling.factor=2"])
    assert loaded.model.blocks[0].steps[0].op.rope.scaling.factor == 2
    assert loaded.config["rope_scaling"] == {"type": "linear", "factor": 2}
    assert "expected KEY=VALUE" in refusal(LLAMA, sets=["num_hidden_layers"])
    assert "not an object" in refusal(LLAMA, sets=["hidden_size.x=3"])


def test_tokens_come_from_the_generation_config_first(
    load: Load, tmp_path: object
) -> None:
    config = LLAMA | {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1}
    tokens = load(config).model.tokens
    assert (tokens.bos, tokens.eos, tokens.pad) == (1, (2, 3), None)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5}')  # type: ignore[operator]
    assert load(config).model.tokens.eos == (5,)
