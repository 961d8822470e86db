"""``--set num_layers=N``: the first layers of a full checkpoint, the others waived."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

from glmc import compile_model
from glmc.backends.runtime.storage import Need
from glmc.backends.runtime.tensor_info import TensorInfo
from glmc.command.cli import main
from glmc.compile.accounting import account, wanted
from glmc.compile.driver import Options, compile_files
from glmc.frontends.build.truncation import number_globs
from support import GOLDEN, builds, edits, parity, reference
from support.variants import BY_NAME, Tiny, Variant

LAYERS = {"gpt2": "n_layer"}
MTP = "layers that predict further tokens (MTP), which are not used"


@pytest.mark.parametrize("seed", range(30))
def test_globs_match_the_numbers_and_no_other(seed: int) -> None:
    choose = random.Random(seed)
    first = choose.randrange(120)
    runs = set(range(first, first + choose.randrange(60)))
    numbers = runs | {choose.randrange(1200) for _ in range(seed % 5)}
    globs = list(number_globs(numbers))
    matched = {
        number
        for number in range(2000)
        if any(fnmatchcase(str(number), glob) for glob in globs)
    }
    assert matched == numbers


@pytest.mark.parametrize(
    "name",
    [
        "glm-partial",
        "llama-gqa",
        "qwen3-window",
        "mistral-window",
        "gpt2-tied",
        "glm4_moe-air",
        "glm_moe_dsa-shared",
    ],
)
def test_fewer_layers_are_those_of_transformers(
    name: str, tiny: Callable[[Variant], Tiny], tmp_path: Path
) -> None:
    case = tiny(BY_NAME[name])
    key = LAYERS.get(case.variant.family, "num_hidden_layers")
    config = edits.read_config(case.checkpoint)
    fewer = config[key] - 1
    build = compile_model(case.checkpoint, tmp_path / "b", sets=(f"{key}={fewer}",))
    model = builds.load(build, case.checkpoint)
    values = {key: fewer}
    for listed in ("layer_types", "mlp_layer_types", "indexer_types"):
        if config.get(listed):
            values[listed] = config[listed][:fewer]
    short = edits.with_config(case.checkpoint, tmp_path / "short", values)
    expected = reference.reference(short, far=False)
    for scenario in ("prompt", "decode", "padded"):
        assert parity.SCENARIOS[scenario](model, expected) <= parity.TOLERANCE
    # Control: the full model's logits are others.
    whole = reference.read(case.reference)
    assert parity.prompt(model, whole) > parity.TOLERANCE


def test_a_golden_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check and load waive the rest; the model is that of a cut checkpoint."""
    source, build = GOLDEN / "chatglm3", tmp_path / "build"
    set_two = ["--set", "num_layers=2"]
    assert main(["compile", str(source), "-o", str(build), *set_two]) == 0
    capsys.readouterr()
    assert main(["check", str(build), "--weights", str(source), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["ok"], facts["bound"]) == (True, 17)
    left_out = facts["waived"]["a layer that --set leaves out"]
    assert len(left_out) == 7
    assert all(".layers.2." in name for name in left_out)
    ids = torch.tensor([[5, 6, 7, 8]])
    got = builds.load(build, source)(input_ids=ids).logits
    tensors: dict[str, torch.Tensor] = {}
    for shard in source.glob("*.bin"):
        tensors |= torch.load(shard, weights_only=True)
    kept = {k: v for k, v in tensors.items() if ".layers.2." not in k}
    config = edits.read_config(source) | {"num_layers": 2, "num_hidden_layers": 2}
    short = edits.write_config(tmp_path / "short", config)
    torch.save(kept, short / "pytorch_model.bin")
    expected = builds.load(compile_model(short, tmp_path / "own"), short)
    assert torch.equal(got, expected(input_ids=ids).logits)
    # Control: without the waivers that --set brings, the rest is an error.
    with pytest.raises(ValueError, match="not used by this model"):
        builds.load(tmp_path / "own", source)


def test_layers_that_predict_further_tokens_keep_their_reason(tmp_path: Path) -> None:
    """Layers after the published ones are not those that --set leaves out."""
    compiled = compile_files("glm-4.5-air", Options(sets=("num_hidden_layers=5",)))
    given = wanted(compile_files("glm-4.5-air", Options()).stages[-1].program)
    further = {"model.layers.46.eh_proj.weight": Need((4096, 8192), None)}
    headers = {
        name: TensorInfo("BF16", need.shape or (), "model.safetensors")
        for name, need in (given | further).items()
    }
    found = account(compiled.loaded.model, compiled.stages[-1].program, headers)
    assert found.ok
    left_out = found.waived.pop("a layer that --set leaves out")
    assert len(left_out) == sum(".layers." in name for name in given) - len(
        [name for name in found.bound if ".layers." in name]
    )
    assert found.waived == {MTP: ["model.layers.46.eh_proj.weight"]}


def test_more_layers_than_the_checkpoint_has_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, build = GOLDEN / "chatglm3", tmp_path / "build"
    set_four = ["--set", "num_layers=4"]
    assert main(["compile", str(source), "-o", str(build), *set_four]) == 0
    assert main(["check", str(build), "--weights", str(source)]) == 2
    assert "7 missing" in capsys.readouterr().out
