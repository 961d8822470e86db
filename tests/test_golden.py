"""Logits equal those of the published ChatGLM code, within 1e-4 in fp32."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from glmc import compile_model
from glmc.look.builds import Build
from support import GOLDEN, builds, edits
from support.measured import Record, record

NAMES = ("chatglm2", "chatglm3", "codegeex2")
TOLERANCE = 1e-4
Compile = Callable[[Path], Path]


def prompt(model: Any, golden: dict[str, torch.Tensor]) -> float:
    """The prompt in one call."""
    out = model(input_ids=golden["single.input_ids"])
    return _worst(out.logits, golden["single.logits"])


def decode(model: Any, golden: dict[str, torch.Tensor]) -> float:
    """The ids that followed, one at a time with the cache."""
    out = model(input_ids=golden["single.input_ids"], use_cache=True)
    rows = []
    for token in golden["single.decode_ids"]:
        out = model(
            input_ids=token.view(1, 1),
            past_key_values=out.past_key_values,
            use_cache=True,
        )
        rows.append(out.logits[0, -1])
    return _worst(torch.stack(rows), golden["single.decode_logits"])


def padded(model: Any, golden: dict[str, torch.Tensor]) -> float:
    """The left-padded batch, with its mask and its positions."""
    mask = golden["padded.attention_mask"]
    out = model(
        input_ids=golden["padded.input_ids"],
        attention_mask=mask,
        position_ids=golden["padded.position_ids"],
    )
    assert torch.isfinite(out.logits).all()
    return _worst(out.logits[mask == 1], golden["padded.logits"][mask == 1])


def padded_by_mask(model: Any, golden: dict[str, torch.Tensor]) -> float:
    """The same batch, the positions left for the model to find."""
    mask = golden["padded.attention_mask"]
    out = model(input_ids=golden["padded.input_ids"], attention_mask=mask)
    return _worst(out.logits[mask == 1], golden["padded.logits"][mask == 1])


SCENARIOS = (prompt, decode, padded, padded_by_mask)


def _worst(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape
    return (got - expected).abs().max().item()


def _golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / name / "golden.safetensors")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_logits(
    name: str, scenario: Any, compiled: Compile, record_property: Record
) -> None:
    build = compiled(GOLDEN / name)
    worst = scenario(builds.load(build, GOLDEN / name), _golden(name))
    record(record_property, build, "golden", scenario.__name__, worst)
    assert worst <= TOLERANCE


def test_names_without_the_prefix_load_too(compiled: Compile, tmp_path: Path) -> None:
    """A base model that was saved by itself lacks `transformer.` in its names."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted((GOLDEN / "chatglm3").glob("*.bin")):
        tensors |= torch.load(shard, weights_only=True)
    bare = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    assert bare.keys() != tensors.keys()
    edits.write_config(tmp_path, edits.read_config(GOLDEN / "chatglm3"))
    torch.save(bare, tmp_path / "pytorch_model.bin")
    model = builds.load(compiled(GOLDEN / "chatglm3"), tmp_path)
    assert prompt(model, _golden("chatglm3")) <= TOLERANCE


# Controls: each of these mistakes must show, or the tests above prove little.
def test_control_a_wrong_epsilon_shows(tmp_path: Path) -> None:
    checkpoint, wrong = GOLDEN / "chatglm3", {"layernorm_epsilon": 1e-2}
    source = edits.with_config(checkpoint, tmp_path / "source", wrong)
    model = builds.load(
        compile_model(source, tmp_path / "build"), checkpoint, allow_config_drift=True
    )
    assert prompt(model, _golden("chatglm3")) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("old", "new", "scenario"),
    [
        ('style="interleaved"', 'style="half"', prompt),
        ("theta=10000.0", "theta=10100.0", decode),
        ("scale=0.25", "scale=0.26", padded),
        ('fn="silu"', 'fn="gelu"', decode),
        ("bias=self.qkv_bias", "bias=None", prompt),
    ],
)
def test_control_a_wrong_line_shows(
    old: str, new: str, scenario: Any, compiled: Compile, tmp_path: Path
) -> None:
    right = compiled(GOLDEN / "chatglm3")
    wrong = edits.with_source(right, tmp_path / "build", "model.py", old, new)
    model = builds.load(wrong, GOLDEN / "chatglm3")
    assert scenario(model, _golden("chatglm3")) > 10 * TOLERANCE


def test_control_a_forgotten_mask_shows(compiled: Compile) -> None:
    golden = _golden("chatglm3")
    model = builds.load(compiled(GOLDEN / "chatglm3"), GOLDEN / "chatglm3")
    got = model(input_ids=golden["padded.input_ids"]).logits
    worst = _worst(got[0, -1], golden["padded.logits"][0, -1])
    assert worst > 10 * TOLERANCE


def test_the_text_part_of_glm_4v(compiled: Compile, tmp_path: Path) -> None:
    """GLM-4V is GLM-4's graph beside a vision tower: its tensors are waived."""
    folder = tmp_path / "glm-4v-9b"
    shutil.copytree(GOLDEN / "chatglm3", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"boi_token_id": 139, "eoi_token_id": 140, "vision_config": {"depth": 63}}
    config["_name_or_path"] = "THUDM/glm-4v-9b"
    (folder / "config.json").write_text(json.dumps(config))
    shard = next(iter(sorted(folder.glob("*.bin"))))
    tensors = torch.load(shard, weights_only=True)
    name = "transformer.vision.patch_embedding.cls_embedding"
    torch.save(tensors | {name: torch.zeros(1, 8)}, shard)
    index = folder / "pytorch_model.bin.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"][name] = shard.name
    index.write_text(json.dumps(listed))
    build = compiled(folder)
    assert Build(build).manifest["variant"] == "glm-4"
    assert prompt(builds.load(build, folder), _golden("chatglm3")) <= TOLERANCE
