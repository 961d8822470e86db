"""Weights go back to where they were published: names, layouts, files, every bit."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from support import GOLDEN, builds, hub_formats, quantised
from support import encoders as enc
from support import tiny as tinies
from support.ranges import first
from support.variants import BY_NAME, VARIANTS, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Compile = Callable[[Path], Path]
Tensors = dict[str, torch.Tensor]

KINDS = (
    *("llama-gqa", "gpt2-tied", "glm4_moe-air", "qwen3_next-interval", "gemma4-text"),
    *("deepseek_v3-yarn", "gpt_oss-sinks", "falcon-new", "opt-pre_norm"),
    *("longcat_flash-zero_experts", "mistral3-text"),
)
ORDER = sorted(VARIANTS, key=lambda one: str(one) not in KINDS)


def tensors_of(folder: Path) -> Tensors:
    """All tensors of a folder, of either format."""
    pickled = any(name.endswith(".bin") for name in weight_files(folder))
    return quantised.tensors_of(folder) if pickled else tinies.tensors_of(folder)


def weight_files(folder: Path) -> list[str]:
    """The names of weight files and of their index."""
    kinds = re.compile(r"(model|pytorch_model).*\.(safetensors|bin|index\.json)")
    return sorted(one.name for one in folder.iterdir() if kinds.fullmatch(one.name))


def assert_same(folder: Path, other: Path) -> None:
    """Two folders hold the same tensors, bit for bit, in files of the same names."""
    assert weight_files(folder) == weight_files(other)
    a, b = tensors_of(folder), tensors_of(other)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert torch.equal(bits(tensor), bits(b[name])), name


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("variant", first(12, ORDER), ids=str)
def test_every_layout(
    variant: Variant, tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    """Untouched weights come back bit for bit; changed ones load as they were."""
    checkpoint = tiny(variant).checkpoint
    package = builds.import_build(compiled(checkpoint))
    model = package.load(checkpoint, dtype="float32")
    package.save(model, tmp_path / "same")
    assert_same(checkpoint, tmp_path / "same")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point():  # not the experts of each token
                weight.mul_(1.25)
    package.save(model, tmp_path / "changed")
    again = package.load(tmp_path / "changed", dtype="float32")
    for path, weight in model.named_parameters():
        assert torch.equal(weight, again.get_parameter(path)), path


@pytest.mark.parametrize("layout", ["sharded", "bin", "sharded bin"])
def test_files_and_index_are_as_given(
    layout: str, tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    case = tiny(BY_NAME["gpt2-tied"])
    checkpoint = tmp_path / "checkpoint"
    if layout == "sharded":
        tinies.make(case.variant, checkpoint, shard="40KB")
    else:
        shards = 3 if layout == "sharded bin" else 1
        tinies.as_bin(case.checkpoint, checkpoint, shards=shards)
    (checkpoint / "tokenizer_config.json").write_text("{}")
    (checkpoint / "modeling_gpt2.py").write_text("raise SystemExit")
    package = builds.import_build(compiled(checkpoint))
    package.save(package.load(checkpoint), tmp_path / "saved")
    assert_same(checkpoint, tmp_path / "saved")
    assert (tmp_path / "saved/tokenizer_config.json").exists()
    assert not (tmp_path / "saved/modeling_gpt2.py").exists()  # no code
    for index in checkpoint.glob("*.index.json"):
        again = (tmp_path / "saved" / index.name).read_text()
        assert sorted(again.split()) == sorted(index.read_text().split())


@pytest.mark.parametrize("name", ["chatglm", "chatglm2", "codegeex2"])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_chatglm(name: str, dtype: str | None, tmp_path: Path) -> None:
    """Whatever they were loaded in: what did not change is as it was published."""
    package = builds.import_build(compile_model(GOLDEN / name, tmp_path / "build"))
    model = package.load(GOLDEN / name, dtype=dtype)
    package.save(model, tmp_path / "saved")
    assert_same(GOLDEN / name, tmp_path / "saved")


@pytest.mark.parametrize("form", hub_formats.FORMATS, ids=str)
def test_codes_come_back_and_what_changed_is_refused(
    form: Any, tiny: MakeTiny, tmp_path: Path
) -> None:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    form = hub_formats.FORMATS[form] if isinstance(form, str) else form
    checkpoint, _ = hub_formats.pair(source, tmp_path, form)
    package = builds.import_build(compile_model(checkpoint, tmp_path / "build"))
    model = package.load(checkpoint, dtype="float32")
    with torch.no_grad():
        model.norm.mul_(2)  # a float beside the codes
    package.save(model, tmp_path / "saved")
    stored, saved = tensors_of(checkpoint), tensors_of(tmp_path / "saved")
    assert torch.equal(
        saved.pop("model.norm.weight"), stored.pop("model.norm.weight") * 2
    )
    assert stored.keys() == saved.keys()
    assert all(torch.equal(bits(stored[n]), bits(saved[n])) for n in stored)
    with torch.no_grad():
        model.layers[1].o_proj.add_(1)
    with pytest.raises(
        ValueError, match=r"layers\.1\.o_proj has changed, and it is made"
    ):
        package.save(model, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_control_what_changed_is_written(
    tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    """One part of a merged parameter: one tensor is another, and no other is."""
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    package = builds.import_build(compiled(checkpoint))
    model = package.load(checkpoint)
    stored = tensors_of(checkpoint)
    width = stored["model.layers.1.self_attn.q_proj.weight"].shape[0]
    with torch.no_grad():
        model.layers[1].qkv[width] += 1
    package.save(model, tmp_path / "saved")
    saved = tensors_of(tmp_path / "saved")
    changed = [name for name in stored if not torch.equal(stored[name], saved[name])]
    assert changed == ["model.layers.1.self_attn.k_proj.weight"]


def test_the_wider_dtype_is_written(
    tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    package = builds.import_build(compiled(checkpoint))
    model = package.load(checkpoint, dtype="bfloat16")
    with torch.no_grad():
        model.norm.add_(1)
    package.save(model, tmp_path / "wide")
    assert tensors_of(tmp_path / "wide")["model.norm.weight"].dtype == torch.float32
    package.save(model, tmp_path / "asked", dtype="bfloat16")
    found = tensors_of(tmp_path / "asked")
    assert found["model.norm.weight"].dtype == torch.bfloat16
    assert found["lm_head.weight"].dtype == torch.float32  # as it was
    with pytest.raises(ValueError, match="'int3' is not one that weights can have"):
        package.save(model, tmp_path / "no", dtype="int3")


def test_copies_of_a_tied_head_follow(tmp_path: Path) -> None:
    case = enc.BY_NAME["masked-lm"]
    enc.make(case, tmp_path / "checkpoint")
    stored = tensors_of(tmp_path / "checkpoint")
    twin = "bert.embeddings.word_embeddings.weight"
    stored["cls.predictions.decoder.weight"] = stored[twin].clone()
    from safetensors.torch import save_file

    save_file(stored, tmp_path / "checkpoint/model.safetensors", {"format": "pt"})
    build = compile_model(tmp_path / "checkpoint", tmp_path / "build", **case.options)
    package = builds.import_build(build)
    model = package.load(tmp_path / "checkpoint")
    with torch.no_grad():
        model.word_embeddings.mul_(2)
    package.save(model, tmp_path / "saved")
    saved = tensors_of(tmp_path / "saved")
    assert torch.equal(saved["cls.predictions.decoder.weight"], stored[twin] * 2)
    package.load(tmp_path / "saved")  # which looks whether they are the same


def test_folders_that_are_refused(
    tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    tinies.make(BY_NAME["llama-gqa"], checkpoint)
    package = builds.import_build(compiled(tiny(BY_NAME["llama-gqa"]).checkpoint))
    model = package.load(checkpoint)
    with pytest.raises(ValueError, match="exists; name a folder that does not"):
        package.save(model, checkpoint)
    with pytest.raises(ValueError, match="is no loaded model of this build"):
        package.save(package.Model(), tmp_path / "saved")
    model.extra = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="extra differ"):
        package.save(model, tmp_path / "saved")
    del model.extra
    os.rename(checkpoint, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is not there any more"):
        package.save(model, tmp_path / "saved")


def test_a_save_that_breaks_off_leaves_nothing(
    tiny: MakeTiny, compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny(BY_NAME["llama-gqa"]).checkpoint
    package = builds.import_build(compiled(checkpoint))
    model = package.load(checkpoint)
    package.save(model, tmp_path / "first")  # imports the module
    import sys

    saving = sys.modules[f"{package.__name__}.saving"]
    monkeypatch.setattr(saving, "_copy_rest", _full)
    with pytest.raises(OSError, match="No space"):
        package.save(model, tmp_path / "saved")
    assert [one.name for one in tmp_path.iterdir()] == ["first"]


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")
