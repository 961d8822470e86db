"""A build refuses the weights of another config, and no other spelling of its own."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from glmc import compile_model
from glmc.backends.runtime import drift as drifting
from glmc.backends.runtime.drift import COMPILED, drift
from glmc.backends.runtime.folders import FolderFiles
from glmc.compile.driver import compiled_config
from glmc.frontends.build.source import resolve_source
from glmc.frontends.frontend import LoadedModel, load_model
from glmc.frontends.spec.library import builtin_configs
from glmc.ir.errors import GlmcError
from support import builds, edits, tiny
from support.cli import glmc, refused
from support.variants import BY_NAME, Tiny, Variant

Config = dict[str, Any]
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
QUANTIZED = {"quant_method": "fp8", "activation_scheme": "dynamic"}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Mistral with a window, and its build."""
    folder = tmp_path_factory.mktemp("drift")
    tiny.make(BY_NAME["mistral-window"], folder / "checkpoint")
    compile_model(folder / "checkpoint", folder / "build")
    return folder / "checkpoint", folder / "build"


def changed(case: tuple[Path, Path], folder: Path, keys: Config) -> Path:
    """The checkpoint with other values in its config; None takes a key away."""
    shutil.copytree(case[0], folder)
    config = edits.read_config(folder) | keys
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


OTHERS: dict[str, tuple[Config, str]] = {
    "theta": (
        {"rope_parameters": {**ROPE, "rope_theta": 500000.0}},
        "rope.theta is 500000.0, compiled was ",
    ),
    "theta of before": (
        {"rope_parameters": None, "rope_theta": 12000.0},
        "rope.theta is 12000.0",
    ),
    "scaling": (
        {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}},
        "rope.type is 'linear', compiled was 'default'",
    ),
    "eps": ({"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001, compiled was 0.01"),
    "eps absent": ({"rms_norm_eps": None}, "rms_norm_eps is 1e-06"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "groups": ({"num_key_value_heads": 4}, "num_key_value_heads is 4, compiled was "),
    "window": ({"sliding_window": 5}, "sliding_window is 5, compiled was 8"),
    "no window": ({"sliding_window": None}, "sliding_window is "),
    "head": ({"head_dim": 32}, "head_dim is 32"),
    "tied": ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
    "quantised": (
        {"quantization_config": QUANTIZED},
        "quantization_config.quant_method is 'fp8', compiled was absent",
    ),
    "a key nobody knows": ({"mystery": 3}, "mystery is 3, compiled was absent"),
    "another type": ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_configs_are_refused(
    case: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    keys, words = OTHERS[name]
    checkpoint, build = changed(case, tmp_path / "other", keys), case[1]
    with pytest.raises(ValueError, match="is not the config that this build") as error:
        builds.load(build, checkpoint)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="is not the config that this build"):
        model = builds.load(build, checkpoint, allow_config_drift=True)
    assert torch.equal(model.embed_tokens, builds.load(*case[::-1]).embed_tokens)


SAME: dict[str, Config] = {
    "dtype": {"dtype": "float16", "torch_dtype": None},
    "who wrote it": {"transformers_version": "9.9", "use_cache": False},
    "rope of before": {"rope_parameters": None, "rope_theta": 10000.0},
    "type and theta": {
        "rope_parameters": None,
        "rope_theta": 10000,
        "rope_scaling": {"type": "default"},
    },
    "a default said": {"num_key_value_heads": 2.0, "quantization_config": None},
    "a default left out": {"hidden_act": None, "tie_word_embeddings": None},
    "more positions": {"max_position_embeddings": 1 << 20},
    "training": {"attention_dropout": 0.3, "initializer_range": 1.0},
    "off": {"mystery": False, "enigma": 0, "riddle": [], "puzzle": ""},
}


@pytest.mark.parametrize("name", SAME)
def test_other_spellings_are_not(
    case: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    checkpoint = changed(case, tmp_path / "same", SAME[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        builds.load(case[1], checkpoint)


def test_the_command_line(case: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, build = changed(case, tmp_path / "o", {"rms_norm_eps": 1e-3}), case[1]
    given = (build, "--weights", checkpoint)
    told = refused(glmc("check", *given))
    assert "GLMC048" in told
    assert "rms_norm_eps is 0.001, compiled was 0.01" in told
    facts = json.loads(glmc("check", *given, "--json").stdout)
    assert facts["ok"] is False
    assert facts["config"] == [{"key": "rms_norm_eps", "compiled": 1e-2, "found": 1e-3}]
    assert glmc("check", *given, "--allow-config-drift").returncode == 0
    prompt = ("--prompt-ids", "5,6,7", "--max-new-tokens", "2", "--json")
    assert "GLMC048" in refused(glmc("run", *given, *prompt))
    assert glmc("run", *given, *prompt, "--allow-config-drift").returncode == 0


def test_tokens_and_wishes_are_told(case: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = changed(case, tmp_path / "t", {"eos_token_id": [2, 7]})
    asked = {"suppress_tokens": [20, 21], "guidance_scale": 2.0, "num_beams": 1}
    file = checkpoint / "generation_config.json"
    file.write_text(json.dumps(asked))
    with pytest.warns(UserWarning, match="tokens") as told:
        builds.load(case[1], checkpoint)
    words = " ".join(str(one.message) for one in told)
    assert "eos_token_id is [2, 7], compiled was [2]" in words
    assert "asks for guidance_scale=2.0, which generate() does not do" in words
    # What it does is no matter to tell.
    assert "suppress_tokens" not in words
    file.write_text(json.dumps({"suppress_tokens": "x"}))
    given = (str(case[1]), "--weights", str(checkpoint))
    assert "suppress_tokens='x', which must be a token id" in refused(
        glmc("check", *given)
    )


def test_what_was_set_stays_set(case: tuple[Path, Path], tmp_path: Path) -> None:
    """A value compiled with --set is meant; any other difference is refused."""
    sets = ["rope_parameters.rope_theta=20000.0", "num_hidden_layers=1"]
    build = compile_model(case[0], tmp_path / "build", sets=tuple(sets))
    config = edits.read_config(case[0])
    compiled = json.loads((build / COMPILED).read_text())
    assert drift(compiled, FolderFiles(case[0])).changed == []
    other = changed(case, tmp_path / "o", {"rms_norm_eps": 1e-3})
    assert [one.key for one in drift(compiled, FolderFiles(other)).changed] == [
        "rms_norm_eps"
    ]
    assert config["rope_parameters"]["rope_theta"] == 10000.0


def test_a_build_from_a_dump_remembers_the_config(
    case: tuple[Path, Path], tmp_path: Path
) -> None:
    build = tmp_path / "again"
    dump = case[1] / "ir/0-model.glmc"
    assert glmc("compile", "--from-ir", dump, "-o", build).returncode == 0
    builds.load(build, case[0])
    other = changed(case, tmp_path / "o", {"rms_norm_eps": 1e-3})
    with pytest.raises(ValueError, match=r"rms_norm_eps is 0\.001"):
        builds.load(build, other)


def test_a_tuned_folder_says_what_counts(
    case: tuple[Path, Path], tmp_path: Path
) -> None:
    tuned = changed(case, tmp_path / "tuned", {"rms_norm_eps": 1e-3})
    with pytest.raises(ValueError, match=r"tuned/config\.json is not the config"):
        builds.load(case[1], case[0], tuned=tuned)
    (tuned / "config.json").unlink()
    builds.load(case[1], case[0], tuned=tuned)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"says": 3}', '{"says": {}, "expected": {}}']
)
def test_a_record_that_was_edited_is_one_sentence(
    case: tuple[Path, Path], tmp_path: Path, text: str
) -> None:
    build = tmp_path / "build"
    shutil.copytree(case[1], build)
    (build / COMPILED).write_text(text)
    with pytest.raises(ValueError, match=r"compiled\.json"):
        builds.load(build, case[0])
    refused(glmc("check", build, "--weights", case[0]))


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1, "a": 2}', '{"rope_scaling": 3}'])
def test_a_config_that_cannot_be_read_is_refused(
    case: tuple[Path, Path], tmp_path: Path, text: str
) -> None:
    checkpoint = changed(case, tmp_path / "o", {})
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        builds.load(case[1], checkpoint)


def test_weights_alone_are_believed(case: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = changed(case, tmp_path / "o", {})
    (checkpoint / "config.json").unlink()
    builds.load(case[1], checkpoint)


def test_control_a_build_that_compares_nothing_is_seen(
    case: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = changed(case, tmp_path / "o", {"rms_norm_eps": 1e-3})
    compiled = json.loads((case[1] / COMPILED).read_text())
    assert drift(compiled, FolderFiles(checkpoint)).changed
    monkeypatch.setattr(drifting, "differences", lambda *given: [])
    assert not drift(compiled, FolderFiles(checkpoint)).changed


RESAVED = (
    "llama-llama3",
    "qwen2-window",
    "gemma2-capped",
    "gemma3_text-patterned",
    "glm4_moe-air",
    "gpt2-tied",
)


@pytest.mark.parametrize("name", [name for name in RESAVED if name in BY_NAME])
def test_transformers_spelling_of_before_and_of_today_are_one(
    name: str, tiny: Callable[[Variant], Tiny], tmp_path: Path
) -> None:
    today = tiny(BY_NAME[name]).checkpoint
    config = edits.read_config(today)
    from support.tiny import legacy_dialect

    before = edits.write_config(tmp_path / "before", legacy_dialect(config))
    resaved = tmp_path / "resaved"
    transformers.AutoConfig.from_pretrained(before).save_pretrained(resaved)
    for one, other in ((today, before), (before, today), (before, resaved)):
        compiled = record(load_model(resolve_source(str(one))))
        assert drift(compiled, FolderFiles(other)).changed == [], (one, other)


# As published: lists of layers and ropes of kinds of layers are not spelled out.
SHORT: dict[str, Config] = {
    "llama4_text": {
        "num_local_experts": 4,
        "interleave_moe_layer_step": 2,
        "rope_theta": 500000.0,
        "intermediate_size_mlp": 64,
    },
    "mimo_v2_flash": {
        "head_dim": 24,
        "v_head_dim": 16,
        "n_routed_experts": 8,
        "moe_intermediate_size": 24,
        "rope_theta": 5000000,
        "swa_rope_theta": 10000,
        "partial_rotary_factor": 0.334,
        "sliding_window": 128,
        "sliding_window_size": 128,
        "hybrid_layer_pattern": [0, 1, 1, 1],
        "moe_layer_freq": [0, 1, 1, 1],
        "scoring_func": "sigmoid",
    },
    "gemma3_text": {"sliding_window_pattern": 2, "rope_theta": 1000000.0},
    "smollm3": {"no_rope_layer_interval": 2, "pad_token_id": 0},
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
}
LIST: dict[str, tuple[str, list[Any]]] = {
    "llama4_text": ("moe_layers", [0, 1, 2]),
    "mimo_v2_flash": ("moe_layer_freq", [1, 1, 1, 1]),
    "gemma3_text": ("layer_types", ["full_attention"] * 4),
    "smollm3": ("no_rope_layers", [1, 1, 1, 1]),
}


@pytest.mark.parametrize("family", SHORT)
def test_what_a_class_spells_out_is_no_drift(family: str, tmp_path: Path) -> None:
    """Saved again by transformers, either way; other layers are told all the same."""
    short = {"model_type": family, **SIZES, **SHORT[family]}
    published = edits.write_config(tmp_path / "published", short)
    saved = tmp_path / "saved"
    transformers.AutoConfig.from_pretrained(published).save_pretrained(saved)
    for one, other in ((published, saved), (saved, published)):
        compiled = record(load_model(resolve_source(str(one))))
        assert drift(compiled, FolderFiles(other)).changed == [], (one, other)
    key, value = LIST[family]
    compiled = record(load_model(resolve_source(str(published))))
    edits.write_config(published, {**short, key: value})
    assert [one.key for one in drift(compiled, FolderFiles(published)).changed] == [key]


OWN = {"gemma3_text": "rope_local_base_freq", "mimo_v2_flash": "swa_rope_theta"}


@pytest.mark.parametrize("family", OWN)
def test_a_rope_of_some_layers_is_told_in_either_spelling(
    family: str, tmp_path: Path
) -> None:
    """A key of its own, or an entry of ``rope_parameters``; both ways, equal or not."""
    key, kinds = OWN[family], ("full_attention", "sliding_attention")
    part = {"partial_rotary_factor": 0.334} if family == "mimo_v2_flash" else {}
    short = {"model_type": family, **SIZES, **SHORT[family], key: 70000.0}
    thetas = dict(zip(kinds, (short.pop("rope_theta"), 70000.0), strict=True))
    ropes = {
        kind: {"rope_type": "default", "rope_theta": theta, **part}
        for kind, theta in thetas.items()
    }
    old = {**short, "rope_theta": thetas["full_attention"]}
    new = {k: v for k, v in short.items() if k != key} | {"rope_parameters": ropes}
    places = [tmp_path / "old", tmp_path / "new"]
    for place, config in zip(places, (old, new), strict=True):
        edits.write_config(place, config)
    compiled = [record(load_model(resolve_source(str(place)))) for place in places]
    for one, other in ((0, 1), (1, 0), (1, 1)):
        assert drift(compiled[one], FolderFiles(places[other])).changed == []
    edits.write_config(places[0], {**old, key: 60000.0})
    found = drift(compiled[1], FolderFiles(places[0])).changed
    assert list(map(str, found)) == [
        "rope.sliding_attention.theta is 60000.0, compiled was 70000.0"
    ]
    assert [one.key for one in drift(compiled[0], FolderFiles(places[0])).changed] == [
        key
    ]
    ropes["sliding_attention"]["rope_theta"] = 60000.0
    edits.write_config(places[1], new)
    for one in (0, 1):
        found = drift(compiled[one], FolderFiles(places[1])).changed
        assert [difference.key for difference in found] == [
            "rope.sliding_attention.theta"
        ]


def record(loaded: LoadedModel) -> Config:
    found: Config = json.loads(json.dumps(compiled_config(loaded)))
    return found


def mutated(value: Any) -> Iterator[Any]:
    """Other values of the kind that a key has."""
    match value:
        case bool():
            yield not value
        case int() | float():
            yield value + 1
            yield value * 2
        case str():
            yield {"silu": "gelu", "swiglu": "gelu"}.get(value, value + "x")
        case list():
            yield value[::-1]
        case dict():
            for key in value:
                for inner in mutated(value[key]):
                    yield {**value, key: inner}
    yield None


def model_of(folder: Path, config: Config) -> Any:
    """Return what the frontend makes of a config, or why it refuses it."""
    (folder / "config.json").write_text(json.dumps(config))
    try:
        model = load_model(resolve_source(str(folder))).model
    except GlmcError as error:
        return str(error)
    plain = {"tokens": None, "dtype": "f32", "max_positions": None}
    if model.embed.positions is not None:
        del plain["max_positions"]
    return model.model_copy(update=plain)


# Nothing that is computed with these weights depends on them.
SILENT = ("dtype", "torch_dtype", "architectures", "auto_map")
CONFIGS = ("chatglm3-6b", "glm-4-9b", "glm-4.5-air", "chatglm-6b")


@pytest.mark.parametrize(
    "name", [name for name in CONFIGS if name in builtin_configs()]
)
def test_whatever_changes_the_model_is_told(name: str, tmp_path: Path) -> None:
    """The frontend is the judge: no key whose value matters is passed over."""
    config = json.loads(builtin_configs()[name].read_text())
    here = model_of(tmp_path, config)
    compiled = record(load_model(resolve_source(str(tmp_path))))
    told = needless = 0
    for key, value in config.items():
        for other in mutated(value):
            one = {k: v for k, v in {**config, key: other}.items() if v is not None}
            differs = model_of(tmp_path, copy.deepcopy(one)) != here
            found = drift(compiled, FolderFiles(tmp_path)).changed
            silent = key in SILENT
            assert found or not differs or silent, (key, other)
            told += bool(found)
            needless += bool(found) and not differs
    assert told > 20
    assert needless <= told / 5
