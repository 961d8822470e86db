"""Users' mistakes: one clear paragraph, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support import GOLDEN, builds, edits
from support.cli import glmc, refused

# What is wrong, and words that the refusal must hold.
CONFIG_MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown key": ({"frobnicate": 3}, ("frobnicate",)),
    "unknown type": ({"model_type": "chatgml"}, ("chatgml", "chatglm")),
    "no type": (
        {"model_type": None, "architectures": None, "auto_map": None},
        ("model_type", "auto_map"),
    ),
    "missing size": ({"hidden_size": None}, ("hidden_size",)),
    "size as text": ({"hidden_size": "big"}, ("hidden_size",)),
    "size as float": ({"hidden_size": 64.5}, ("hidden_size",)),
    "size as bool": ({"num_layers": True}, ("num_layers",)),
    "negative size": ({"ffn_hidden_size": -4}, ("ffn_hidden_size",)),
    "zero layers": ({"num_layers": 0}, ("num_layers",)),
    "heads do not divide": ({"multi_query_group_num": 3}, ("3", "4")),
    "absurd size": ({"ffn_hidden_size": 10**15}, ("ffn_hidden_size",)),
    "absurd layers": ({"num_layers": 10**9}, ("num_layers",)),
    "nan epsilon": ({"layernorm_epsilon": float("nan")}, ("NaN",)),
    "flag as text": ({"rmsnorm": "yes"}, ("rmsnorm",)),
}


@pytest.mark.parametrize("kind", CONFIG_MISTAKES)
def test_config(kind: str, tmp_path: Path) -> None:
    values, words = CONFIG_MISTAKES[kind]
    config = edits.read_config(GOLDEN / "chatglm3") | values
    config = {key: value for key, value in config.items() if value is not None}
    edits.write_config(tmp_path / "model", config)
    message = refused(glmc("compile", tmp_path / "model", "-o", tmp_path / "build"))
    assert all(word in message for word in words), message
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_unknown_key_can_be_ignored(tmp_path: Path) -> None:
    config = edits.read_config(GOLDEN / "chatglm3") | {"frobnicate": 3}
    edits.write_config(tmp_path / "model", config)
    build = tmp_path / "build"
    options = ("--ignore-key", "frobnicate")
    run = glmc("compile", tmp_path / "model", "-o", build, *options)
    assert run.returncode == 0, run.stderr
    assert "frobnicate" in (build / "manifest.json").read_text()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', '{"a": 1,}', "\x00", '{"a": ' * 5000]
)
def test_malformed_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    message = refused(glmc("compile", tmp_path / "config.json", "-o", tmp_path / "b"))
    assert "config.json" in message
    assert not (tmp_path / "b").exists()


def test_config_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00\x01")
    message = refused(glmc("compile", tmp_path, "-o", tmp_path / "b"))
    assert "config.json" in message


def test_missing_config(tmp_path: Path) -> None:
    message = refused(glmc("compile", tmp_path / "nowhere.json", "-o", tmp_path / "b"))
    assert "nowhere.json" in message
    message = refused(glmc("compile", tmp_path, "-o", tmp_path / "b"))
    assert "config.json" in message


def test_output_that_is_not_a_build(tmp_path: Path) -> None:
    """A folder of the user's own is not overwritten."""
    (tmp_path / "precious.txt").write_text("mine")
    refused(glmc("compile", GOLDEN / "chatglm3", "-o", tmp_path))
    assert (tmp_path / "precious.txt").read_text() == "mine"
    refused(glmc("compile", GOLDEN / "chatglm3", "-o", tmp_path / "precious.txt"))


@pytest.mark.parametrize("command", ["inspect", "check", "run"])
def test_not_a_build(command: str, tmp_path: Path) -> None:
    more = {
        "inspect": (),
        "check": ("--weights", GOLDEN / "chatglm3"),
        "run": ("--weights", GOLDEN / "chatglm3", "--prompt-ids", "1,2"),
    }[command]
    message = refused(glmc(command, tmp_path / "nowhere", *more))
    assert "nowhere" in message


@pytest.mark.parametrize("prompt", ["", "a,b", "1,,2", "-1", "160", "1;2"])
def test_prompt_ids(
    prompt: str, compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    golden = GOLDEN / "chatglm3"
    refused(
        glmc("run", compiled(golden), "--weights", golden, f"--prompt-ids={prompt}")
    )


Breakage = Callable[[Path], str]


def missing_shard(model: Path) -> str:
    (model / "pytorch_model-00002-of-00005.bin").unlink()
    return "pytorch_model-00002-of-00005.bin"


def truncated_shard(model: Path) -> str:
    shard = model / "pytorch_model-00003-of-00005.bin"
    shard.write_bytes(shard.read_bytes()[:20_000])
    return shard.name


def empty_shard(model: Path) -> str:
    shard = model / "pytorch_model-00003-of-00005.bin"
    shard.write_bytes(b"")
    return shard.name


def no_weights(model: Path) -> str:
    for file in model.glob("pytorch_model*"):
        file.unlink()
    return str(model)


def broken_index(model: Path) -> str:
    (model / "pytorch_model.bin.index.json").write_text('{"weight_map": [')
    return "pytorch_model.bin.index.json"


def missing_tensor(model: Path) -> str:
    return _change(model, "transformer.encoder.layers.1.self_attention.dense.weight")


def unused_tensor(model: Path) -> str:
    name = "transformer.encoder.layers.1.self_attention.dense.extra"
    return _change(model, name, torch.zeros(3))


def wrong_shape(model: Path) -> str:
    name = "transformer.encoder.layers.1.self_attention.dense.weight"
    return _change(model, name, torch.zeros(64, 63))


def wrong_dtype(model: Path) -> str:
    name = "transformer.encoder.layers.1.self_attention.dense.weight"
    return _change(model, name, torch.zeros(64, 64, dtype=torch.int64))


def _change(model: Path, name: str, tensor: torch.Tensor | None = None) -> str:
    """Take one tensor out of its shard, or put another there; gives its name."""
    file = model / "pytorch_model.bin.index.json"
    index = json.loads(file.read_text())
    shard = index["weight_map"].pop(name, "pytorch_model-00001-of-00005.bin")
    tensors = torch.load(model / shard, weights_only=True)
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
        index["weight_map"][name] = shard
    torch.save(tensors, model / shard)
    file.write_text(json.dumps(index))
    return name


BREAKAGES = (
    missing_shard,
    truncated_shard,
    empty_shard,
    no_weights,
    broken_index,
    missing_tensor,
    unused_tensor,
    wrong_shape,
    wrong_dtype,
)


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda f: f.__name__)
def test_checkpoint(
    breakage: Breakage, compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(GOLDEN / "chatglm3", model)
    culprit = breakage(model)
    build = compiled(GOLDEN / "chatglm3")
    run = glmc("check", build, "--weights", model)
    assert culprit in refused(run) + run.stdout  # the account of tensors is an answer
    with pytest.raises(ValueError, match=r"\w+") as error:
        builds.load(build, model)
    assert culprit in str(error.value)


def test_run_refuses_a_broken_checkpoint(
    compiled: Callable[[Path], Path], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(GOLDEN / "chatglm3", model)
    culprit = missing_shard(model)
    options = ("--weights", model, "--prompt-ids", "5,6,7")
    assert culprit in refused(glmc("run", compiled(GOLDEN / "chatglm3"), *options))


def test_a_header_that_lies(compiled: Callable[[Path], Path], tmp_path: Path) -> None:
    """A safetensors checkpoint whose header lies about its own size."""
    model = tmp_path / "model"
    edits.write_config(model, edits.read_config(GOLDEN / "chatglm3"))
    header = b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,1600]}}'
    data = len(header).to_bytes(8, "little") + header
    (model / "model.safetensors").write_bytes(data)
    build = compiled(GOLDEN / "chatglm3")
    message = refused(glmc("check", build, "--weights", model))
    assert "model.safetensors" in message
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        builds.load(build, model)


def test_usage_mistakes() -> None:
    for arguments in ([], ["frobnicate"], ["compile"], ["compile", "x", "--nope"]):
        run = glmc(*arguments)
        assert run.returncode == 2, arguments
        assert "Traceback" not in run.stderr
