"""Loading: every format, the assembly, and every bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc.backends.runtime import checkpoint, filling, loading
from glmc.backends.runtime.causal_lm import CausalLM
from glmc.backends.runtime.faults import WeightsError

Tensors = dict[str, torch.Tensor]
FORMATS = ["safetensors", "bin", "old-bin"]


def save(
    folder: Path, tensors: Tensors, kind: str = "safetensors", shards: int = 1
) -> list[Path]:
    """Writes a checkpoint; returns its files."""
    stem = "model" if kind == "safetensors" else "pytorch_model"
    ending = "safetensors" if kind == "safetensors" else "bin"
    files, weight_map = [], {}
    for n in range(shards):
        name = f"{stem}-{n + 1}.{ending}" if shards > 1 else f"{stem}.{ending}"
        part = {key: tensors[key] for key in list(tensors)[n::shards]}
        if kind == "safetensors":
            save_file(part, folder / name)
        else:
            zipped = kind != "old-bin"
            torch.save(part, folder / name, _use_new_zipfile_serialization=zipped)
        weight_map |= dict.fromkeys(part, name)
        files.append(folder / name)
    if shards > 1:
        index = folder / f"{stem}.{ending}.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


@pytest.fixture
def load(model_class: type[CausalLM], weights: Any) -> Any:
    def call(source: str | Path, **options: Any) -> Any:
        return loading.load(model_class, weights, source, **options)

    return call


def check_values(model: Any, tensors: Tensors, dtype: torch.dtype) -> None:
    def cast(name: str) -> torch.Tensor:
        return tensors[name].to(dtype)

    assert torch.equal(model.embed, cast("base.embed.weight"))
    assert torch.equal(model.head, cast("head.weight"))
    for i, layer in enumerate(model.layers):
        qkv = torch.cat([cast(f"base.h.{i}.{part}") for part in "qkv"])
        assert torch.equal(layer.qkv, qkv)
        assert torch.equal(layer.o, cast(f"base.h.{i}.o").T)
        assert torch.equal(layer.norm, cast(f"base.h.{i}.norm"))
    for weight in model.parameters():
        assert weight.dtype == dtype
        assert weight.is_contiguous()
        assert not weight.requires_grad


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [None, "bfloat16", torch.float16])
def test_loads_every_format(
    load: Any, tmp_path: Path, tensors: Tensors, kind: str, shards: int, dtype: Any
) -> None:
    save(tmp_path, tensors, kind, shards)
    names = {None: torch.float32, "bfloat16": torch.bfloat16}
    model = load(tmp_path, dtype=dtype)
    check_values(model, tensors, names.get(dtype, dtype))
    assert not model.training


@pytest.mark.parametrize("kind", FORMATS)
def test_large_tensors_come_in_pieces_from_reopened_files(
    load: Any, tmp_path: Path, tensors: Tensors, kind: str, monkeypatch: Any
) -> None:
    save(tmp_path, tensors, kind, shards=2)
    monkeypatch.setattr(filling, "PIECE", 300)
    monkeypatch.setattr(checkpoint, "MIN_BUDGET", 500)
    closed = []
    close = checkpoint.Shard.close
    monkeypatch.setattr(
        checkpoint.Shard, "close", lambda shard: closed.append(close(shard))
    )
    check_values(load(str(tmp_path)), tensors, torch.float32)
    assert (len(closed) > 20) == (kind != "old-bin")


def test_waived_and_prefixless_names(
    load: Any, tmp_path: Path, tensors: Tensors
) -> None:
    bare = {name.removeprefix("base."): value for name, value in tensors.items()}
    save(tmp_path, bare | {"h.0.inv_freq": torch.ones(4)})
    check_values(load(tmp_path), tensors, torch.float32)


def test_safetensors_are_preferred(load: Any, tmp_path: Path, tensors: Tensors) -> None:
    save(tmp_path, {name: value + 1 for name, value in tensors.items()}, "bin")
    save(tmp_path, tensors)
    check_values(load(tmp_path), tensors, torch.float32)


def test_code_in_the_folder_is_not_run(
    load: Any, tmp_path: Path, tensors: Tensors
) -> None:
    save(tmp_path, tensors)
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')"
    for name in ("modeling_x.py", "__init__.py", "conftest.py"):
        (tmp_path / name).write_text(code)
    load(tmp_path)
    assert not trace.exists()


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused(load: Any, tmp_path: Path, zipped: bool) -> None:
    trace, file = tmp_path / "trace", tmp_path / "pytorch_model.bin"
    hostile = {"w": Hostile(trace)}
    torch.save(hostile, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="code in a checkpoint is not run"):
        load(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("damage", ["half", "head", "empty", "noise", "lfs"])
def test_damaged_shards_are_named(
    load: Any, tmp_path: Path, tensors: Tensors, kind: str, damage: str
) -> None:
    file = save(tmp_path, tensors, kind, shards=2)[1]
    whole = file.read_bytes()
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
    damaged = {
        "half": whole[: len(whole) // 2],
        "head": whole[:20],
        "empty": b"",
        "noise": b"\xff" * len(whole),
        "lfs": lfs,
    }
    file.write_bytes(damaged[damage])
    with pytest.raises(WeightsError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert ("git lfs pull" if damage == "lfs" else "Download it again") in message
    assert "\n" not in message


def test_missing_shards_are_named(load: Any, tmp_path: Path, tensors: Tensors) -> None:
    for file in save(tmp_path, tensors, "bin", shards=4)[1:3]:
        file.unlink()
    named = r"2 of the 4 shards .* are missing: pytorch_model-2\.bin, pytorch_model-3"
    with pytest.raises(WeightsError, match=named):
        load(tmp_path)


@pytest.mark.parametrize(
    "path",
    ["../other.safetensors", "/etc/passwd", "a/../../x.bin", "C:\\x.bin", "..\\x", ""],
)
def test_paths_that_leave_the_folder_are_refused(
    load: Any, tmp_path: Path, path: str
) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": path}}))
    with pytest.raises(
        WeightsError, match=r"leaves the folder|not a file of|a file name"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": ["b"]}}']
)
def test_malformed_indexes_are_refused(load: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text(text)
    with pytest.raises(WeightsError, match=r"weight_map must|is not a JSON object"):
        load(tmp_path)


def test_tensors_that_do_not_fit_are_told_before_any_is_read(
    load: Any, tmp_path: Path, tensors: Tensors, monkeypatch: Any
) -> None:
    tensors["base.embed.weight"] = torch.zeros(51, 32)
    tensors["base.h.1.q"] = tensors["base.h.1.q"].to(torch.int8)
    tensors["base.h.2.more"] = torch.zeros(3)
    del tensors["base.h.0.norm"]
    save(tmp_path, tensors)
    monkeypatch.setattr(checkpoint.Checkpoint, "read", None)
    with pytest.raises(WeightsError) as caught:
        load(tmp_path)
    for part in (
        "1 missing: base.h.0.norm",
        "base.embed.weight (is [51, 32], the model needs [50, 32])",
        "base.h.1.q (is stored as I8, the model needs a float tensor)",
        "1 not used by this model: base.h.2.more",
    ):
        assert part in str(caught.value)


def test_not_strict_warns_of_unused_tensors(
    load: Any, tmp_path: Path, tensors: Tensors
) -> None:
    save(tmp_path, tensors | {"extra": torch.zeros(3)}, "bin")
    with pytest.warns(UserWarning, match="1 not used by this model: extra"):
        check_values(load(tmp_path, strict=False), tensors, torch.float32)


def test_a_bin_that_is_no_dict_is_refused(load: Any, tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="holds a list, not a dict of tensors"):
        load(tmp_path)


def test_folders_without_weights_and_other_sources(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match="holds no checkpoint"):
        load(tmp_path)
    with pytest.raises(WeightsError, match="does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(WeightsError, match="does not exist"):
        load("../..//x")
    file = tmp_path / "x"
    file.touch()
    with pytest.raises(WeightsError, match="is a file"):
        load(file)


def test_a_table_of_another_model_is_refused(
    load: Any, tmp_path: Path, tensors: Tensors, weights: Any, monkeypatch: Any
) -> None:
    del tensors["head.weight"]
    save(tmp_path, tensors)
    monkeypatch.setattr(weights, "WEIGHTS", weights.WEIGHTS[:-1])
    with pytest.raises(WeightsError, match="the binding table differ in head"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["int8", torch.int64, "float31"])
def test_refuses_a_dtype(load: Any, tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"give one of float64, float32"):
        load(tmp_path, dtype=dtype)


@pytest.mark.parametrize("device", ["tpu0", "cuda:77"])
def test_refuses_a_device(load: Any, tmp_path: Path, device: str) -> None:
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used"):
        load(tmp_path, device=device)


def test_without_huggingface_hub_a_sentence(load: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match="pip install huggingface_hub"):
        load("org/model")


@pytest.mark.parametrize("progress", [True, False, None])
def test_progress_goes_to_stderr(
    load: Any, tmp_path: Path, tensors: Tensors, progress: Any, capsys: Any
) -> None:
    save(tmp_path, tensors)
    load(tmp_path, progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("loading: 100%" in err) == bool(progress)


def test_control_a_wrong_recipe_is_seen(
    load: Any,
    tmp_path: Path,
    tensors: Tensors,
    weights: SimpleNamespace,
    model_class: Any,
) -> None:
    """`o` is square, so a forgotten transposition passes every check of shapes."""
    save(tmp_path, tensors)
    planted = [
        type(b)(b.path, "base.h.{i}.o", b.shape, b.layers) if b.path[-1] == "o" else b
        for b in weights.WEIGHTS
    ]
    wrong = SimpleNamespace(**(vars(weights) | {"WEIGHTS": planted}))
    with pytest.raises(AssertionError):
        check_values(loading.load(model_class, wrong, tmp_path), tensors, torch.float32)


def test_the_cache_can_be_codes(load: Any, tensors: Tensors, tmp_path: Path) -> None:
    save(tmp_path, tensors)
    assert load(tmp_path).new_cache(1, 2).own[0].keys.dtype == torch.float32
    model = load(tmp_path, cache_dtype="int8")
    assert model.new_cache(1, 2).own[0].keys.dtype == torch.int8
    with pytest.raises(ValueError, match="cache_dtype"):
        load(tmp_path, cache_dtype="int5")
