"""ChatGLM-6B (v1): logits equal those of the published code, within 1e-4 in fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support import GOLDEN, builds, edits
from support.kernels import interpreter, kernels_of
from support.measured import Record, record
from support.ranges import first

CHECKPOINT = GOLDEN / "chatglm"
CASES = ("gmask", "mask")
TOLERANCE = 1e-4
Compile = Callable[[Path], Path]
Case = Mapping[str, torch.Tensor]


def case(name: str) -> Case:
    """One of the two prompts: what is given, and the published answers."""
    tensors = load_file(CHECKPOINT / "golden.safetensors")
    mine = {k: v for k, v in tensors.items() if k.startswith(f"{name}.")}
    return {key.removeprefix(f"{name}."): value for key, value in mine.items()}


def prompt(model: Any, golden: Case) -> float:
    """The prompt in one call."""
    out = model(input_ids=golden["input_ids"])
    return _worst(out.logits, golden["logits"])


def prompt_at(model: Any, golden: Case) -> float:
    """The prompt with the positions that the published tokenizer gives."""
    out = model(golden["input_ids"], position_ids=golden["position_ids"])
    return _worst(out.logits, golden["logits"])


def decode(model: Any, golden: Case) -> float:
    """The ids that followed, one at a time with the cache."""
    cache, rows = model(golden["input_ids"]).past_key_values, []
    for token in golden["decode_ids"]:
        out = model(token.view(1, 1), past_key_values=cache)
        rows.append(out.logits[0, -1])
    return _worst(torch.stack(rows), golden["decode_logits"])


def padded(model: Any, golden: Case) -> float:
    """A row with three pads on its left beside one without: prompt and decoding."""
    other = case("mask" if 137 in golden["input_ids"] else "gmask")["input_ids"][0]
    row = golden["input_ids"][0]
    long = torch.cat((other[:1].expand(len(row) + 3 - len(other)), other))
    ids = torch.stack((torch.cat((torch.full((3,), 3), row)), long))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    out = model(ids, attention_mask=mask)
    assert torch.isfinite(out.logits).all()
    found = [out.logits[0, 3:]]
    for token in golden["decode_ids"]:
        out = model(token.expand(2, 1), past_key_values=out.past_key_values)
        found.append(out.logits[0])
    expected = torch.cat((golden["logits"][0], golden["decode_logits"]))
    return _worst(torch.cat(found), expected)


SCENARIOS = (prompt, prompt_at, decode, padded)


def _worst(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape
    return (got - expected).abs().max().item()


ANSWERS = [
    *(("reference", name, scenario) for name in CASES for scenario in SCENARIOS),
    # A padded batch is a prompt and decoding too: in every run kernels do that alone.
    *first(0, [("kernels", "mask", scenario) for scenario in reversed(SCENARIOS)]),
    *first(0, [("kernels", "gmask", scenario) for scenario in SCENARIOS]),
]


@pytest.mark.parametrize(("ops", "name", "scenario"), ANSWERS)
def test_logits(
    ops: str, name: str, scenario: Any, compiled: Compile, record_property: Record
) -> None:
    build = builds.import_build(compiled(CHECKPOINT))
    model = build.load(CHECKPOINT, dtype="float32")
    with interpreter() if ops == "kernels" else nullcontext(), torch.no_grad():
        if ops == "kernels":
            model.ops = kernels_of(build.__name__)
        worst = scenario(model, case(name))
    record(record_property, compiled(CHECKPOINT), "golden", scenario.__name__, worst)
    assert worst <= TOLERANCE


# Controls: each of these mistakes must show, or the tests above prove little.
@pytest.mark.parametrize(
    ("old", "new", "scenario"),
    [
        ("factor=7.48", "factor=7.47", prompt),
        ("r2 = ops.scale(h2", "r2 = ops.scale(x", prompt),
        ("prefix=prefix", "prefix=None", prompt),
        ("sections=2", "sections=1", prompt),
        ("mask=136", "mask=9", decode),
        ("cache.prefix", "cache.prefix + 1", padded),
        ('fn="gelu_tanh"', 'fn="relu"', prompt),
    ],
)
def test_control_a_wrong_line_shows(
    old: str, new: str, scenario: Any, compiled: Compile, tmp_path: Path
) -> None:
    wrong = edits.with_source(
        compiled(CHECKPOINT), tmp_path / "build", "model.py", old, new
    )
    model = builds.load(wrong, CHECKPOINT)
    assert max(_shown(scenario, model, name) for name in CASES) > 10 * TOLERANCE


def _shown(scenario: Any, model: Any, name: str) -> float:
    with torch.no_grad():
        found: float = scenario(model, case(name))
    return found
