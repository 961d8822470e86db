"""Values that tensors are assumed to have are looked up; weights that are no numbers
are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glmc import compile_model
from support import builds, edits, hub_formats
from support import tiny as tinies
from support.cli import glmc, refused
from support.hub_formats import Format, gptq, packed
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Tensors = dict[str, torch.Tensor]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": True}
ORDERED = {**GPTQ, "desc_act": False, "sym": False}


def rewritten(source: Path, folder: Path, change: Callable[[Tensors], None]) -> Path:
    """A checkpoint with other tensors."""
    shutil.copytree(source, folder)
    tensors = {k: v.clone() for k, v in tinies.tensors_of(source).items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def another_head(tensors: Tensors) -> None:
    embed = next(v for k, v in tensors.items() if "embed_tokens" in k or "wte" in k)
    tensors["lm_head.weight"] = embed + (torch.arange(embed.shape[1]) == 3)


def same_head(tensors: Tensors) -> None:
    embed = next(v for k, v in tensors.items() if "embed_tokens" in k or "wte" in k)
    tensors["lm_head.weight"] = embed.clone()


@pytest.mark.parametrize("name", ["qwen2-tied", "gpt2-tied", "qwen3-tied"])
def test_a_head_beside_a_tied_embedding(
    name: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    source = tiny(BY_NAME[name]).checkpoint
    build = compile_model(source, tmp_path / "build")
    builds.load(build, rewritten(source, tmp_path / "same", same_head))
    other = rewritten(source, tmp_path / "other", another_head)
    with pytest.raises(ValueError, match=r"lm_head\.weight is another than the emb"):
        builds.load(build, other)
    with pytest.warns(UserWarning, match="is another than the embedding"):
        builds.load(build, other, strict=False)
    # What the message says to do is right, and transformers does so by itself.
    untied = ("tie_word_embeddings=false",)
    model = builds.load(compile_model(other, tmp_path / "untied", sets=untied), other)
    assert torch.equal(model.lm_head, tinies.tensors_of(other)["lm_head.weight"])


def quantised(config: Any, make: Any, tiny: MakeTiny, folder: Path) -> Path:
    source = tiny(BY_NAME["llama-gqa"]).checkpoint
    return hub_formats.pair(source, folder, Format(config, make))[0]


CASES: dict[str, tuple[Any, Any, str]] = {
    "gptq out of order": (ORDERED, gptq(shuffled=True), "g_idx is not in order"),
    "gptq 8 bits out of order": (
        {**ORDERED, "bits": 8},
        gptq(8, shuffled=True),
        "g_idx is not in order",
    ),
    "gptq_v2 said to be gptq": (
        {**GPTQ, "desc_act": False},
        gptq(zeros=False, less=0),
        "checkpoint_format=gptq_v2",
    ),
    "gptq said to be gptq_v2": (
        {**GPTQ, "desc_act": False, "checkpoint_format": "gptq_v2"},
        gptq(zeros=False),
        "checkpoint_format=gptq",
    ),
    "gptq_v2 of 8 bits": (
        {**GPTQ, "bits": 8, "desc_act": False},
        gptq(8, zeros=False, less=0),
        "checkpoint_format=gptq_v2",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_codes_that_the_config_denies(
    name: str, tiny: MakeTiny, tmp_path: Path
) -> None:
    config, make, words = CASES[name]
    folder = quantised(config, make, tiny, tmp_path)
    build = compile_model(folder, tmp_path / "build")
    with pytest.raises(ValueError, match=words):
        builds.load(build, folder)
    assert words in refused(glmc("check", build, "--weights", folder, "--values"))


def test_a_bias_that_is_not_zero(tiny: MakeTiny, tmp_path: Path) -> None:
    folder = quantised(ORDERED, gptq(), tiny, tmp_path)
    build = compile_model(folder, tmp_path / "build")
    name = "model.layers.1.mlp.up_proj.bias"
    width = tinies.tensors_of(folder)[name.replace("bias", "scales")].shape[1]

    def biased(value: float) -> Callable[[Tensors], None]:
        return lambda tensors: tensors.update({name: torch.full((width,), value)})

    builds.load(build, rewritten(folder, tmp_path / "zero", biased(0.0)))
    with pytest.raises(ValueError, match=r"up_proj\.bias is not zero"):
        builds.load(build, rewritten(folder, tmp_path / "one", biased(0.25)))


def test_groups_of_compressed_tensors_out_of_order(
    tiny: MakeTiny, tmp_path: Path
) -> None:
    config = dict(hub_formats.FORMATS["packed4"].config)
    folder = quantised(config, packed(), tiny, tmp_path)
    build = compile_model(folder, tmp_path / "build")
    stem = "model.layers.0.self_attn.q_proj.weight"
    width = tinies.tensors_of(folder)[f"{stem}_packed"].shape[1] * 8
    order = torch.arange(width, dtype=torch.int32) // hub_formats.GROUP

    def put(index: torch.Tensor) -> Callable[[Tensors], None]:
        return lambda tensors: tensors.update({f"{stem}_g_idx": index})

    builds.load(build, rewritten(folder, tmp_path / "in", put(order)))
    with pytest.raises(ValueError, match="g_idx is not in order"):
        builds.load(build, rewritten(folder, tmp_path / "out", put(order.flip(0))))


@pytest.mark.parametrize("constant", ["beta", "eps"])
def test_constants_of_apertus(constant: str, tiny: MakeTiny, tmp_path: Path) -> None:
    source = tiny(BY_NAME["apertus-xielu"]).checkpoint
    build = compile_model(source, tmp_path / "build")
    builds.load(build, source)
    name = next(
        k for k in tinies.tensors_of(source) if k.endswith(f"act_fn.{constant}")
    )

    def other(tensors: Tensors) -> None:
        tensors[name] = tensors[name] * 2

    folder = rewritten(source, tmp_path / "other", other)
    with pytest.raises(ValueError, match=f"act_fn.{constant} is not .* everywhere"):
        builds.load(build, folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its build."""
    folder = tmp_path_factory.mktemp("llama")
    tinies.make(BY_NAME["llama-gqa"], folder / "checkpoint")
    compile_model(folder / "checkpoint", folder / "build")
    return folder / "checkpoint", folder / "build"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"]
)
def test_weights_that_are_no_numbers(
    llama: tuple[Path, Path], tmp_path: Path, name: str, value: float
) -> None:
    source, build = llama

    def spoilt(tensors: Tensors) -> None:
        tensors[name].view(-1)[3] = value

    folder = rewritten(source, tmp_path / "spoilt", spoilt)
    with pytest.raises(ValueError, match=f"{name} holds nan or infinities"):
        builds.load(build, folder)
    with pytest.warns(UserWarning, match="holds nan or infinities"):
        builds.load(build, folder, strict=False)


def test_weights_too_large_for_half_precision(
    llama: tuple[Path, Path], tmp_path: Path
) -> None:
    source, build = llama

    def large(tensors: Tensors) -> None:
        tensors["model.layers.0.mlp.down_proj.weight"][-1, -1] = 70000.0

    folder = rewritten(source, tmp_path / "large", large)
    builds.load(build, folder)
    builds.load(build, folder, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"too large for float16: load it as bfloat16"):
        builds.load(build, folder, dtype="float16")


def test_check_values_reads_everything(
    llama: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, build = llama

    def late(tensors: Tensors) -> None:
        tensors["lm_head.weight"].view(-1)[-1] = float("nan")

    folder = rewritten(source, tmp_path / "late", late)
    assert glmc("check", build, "--weights", source, "--values").returncode == 0
    assert glmc("check", build, "--weights", folder).returncode == 0
    told = refused(glmc("check", build, "--weights", folder, "--values"))
    assert "GLMC049" in told
    assert "lm_head.weight holds nan or infinities" in told
    facts = glmc("check", build, "--weights", folder, "--values", "--json")
    assert json.loads(facts.stdout)["values"] == [
        "lm_head.weight holds nan or infinities"
    ]


@pytest.mark.parametrize(
    "file", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
)
def test_an_adapter_beside_the_weights(
    llama: tuple[Path, Path], tmp_path: Path, file: str
) -> None:
    source, build = llama
    folder = rewritten(source, tmp_path / "adapted", lambda tensors: None)
    (folder / file).write_text("{}")
    with pytest.raises(ValueError, match=f"holds an adapter .{file}. beside"):
        builds.load(build, folder)
    assert file in refused(glmc("check", build, "--weights", folder))


def test_control_a_loader_that_looks_nothing_up(
    tiny: MakeTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted mistake: the build expects nothing of what it waives."""
    source = tiny(BY_NAME["qwen2-tied"]).checkpoint
    build = compile_model(source, tmp_path / "build")
    other = rewritten(source, tmp_path / "other", another_head)
    edit = ("weights.py", "EXPECTED = ", "_X = ")
    model = builds.load(edits.with_source(build, tmp_path / "wrong", *edit), other)
    head = tinies.tensors_of(other)["lm_head.weight"]
    assert not torch.equal(model.embed_tokens, head)
