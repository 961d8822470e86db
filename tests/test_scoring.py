"""Decoders that score texts answer what transformers answers, within 5e-5 in fp32."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from glmc import compile_model
from glmc.ir.errors import GlmcError
from glmc.look.builds import Build
from support import builds, edits, tiny
from support.cli import glmc, refused
from support.variants import BASE

TOLERANCE = 5e-5
PAD, CLASSES = 0, 5
FAMILIES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "phi3": "Phi3",
}
MakeCase = Callable[[str], tuple[Path, Path]]


def write(family: str, folder: Path, classes: int = CLASSES) -> Path:
    torch.manual_seed(0)
    values = {**BASE[family], "pad_token_id": PAD, "num_labels": classes}
    config = transformers.AutoConfig.for_model(family, **values)
    cls = getattr(transformers, f"{FAMILIES[family]}ForSequenceClassification")
    model = cls(config)
    tiny.randomise(model, 0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> MakeCase:
    root = tmp_path_factory.mktemp("scoring")

    def make(family: str) -> tuple[Path, Path]:
        checkpoint = write(family, root / family)
        return checkpoint, compile_model(checkpoint, root / f"{family}-build")

    return lru_cache(make)


def theirs(family: str, checkpoint: Path) -> Any:
    cls = getattr(transformers, f"{FAMILIES[family]}ForSequenceClassification")
    return cls.from_pretrained(
        checkpoint, attn_implementation="eager", dtype=torch.float32
    ).eval()


def calls() -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 128, (3, 17), generator=generator)
    left, right = ids.clone(), ids.clone()
    left[0, :6], right[0, 11:], right[2, 3:] = PAD, PAD, PAD
    return {
        "plain": {"input_ids": ids},
        "left": {"input_ids": left, "attention_mask": (left != PAD).long()},
        "right": {"input_ids": right, "attention_mask": (right != PAD).long()},
        "ids of padding on the right": {"input_ids": right},
        "one token": {"input_ids": ids[:1, :1]},
    }


def worst(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.shape == want.shape
    return (got - want).abs().max().item()


@pytest.mark.parametrize("call", calls())
@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family: str, call: str, case: MakeCase) -> None:
    checkpoint, build = case(family)
    given = dict(calls()[call])
    with torch.no_grad():
        got = builds.load(build, checkpoint)(**given).logits
        if "attention_mask" in given:
            # Of rows that are padded transformers' own classes count no positions.
            mask = given["attention_mask"]
            given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        want = theirs(family, checkpoint)(**given).logits
    assert got.shape == (len(given["input_ids"]), CLASSES)
    assert worst(got, want) <= TOLERANCE


def test_control_the_first_token_or_another_head_shows(case: MakeCase) -> None:
    checkpoint, build = case("llama")
    model = builds.load(build, checkpoint)
    ids = calls()["plain"]["input_ids"]
    with torch.no_grad():
        want = theirs("llama", checkpoint)(input_ids=ids).logits
        assert worst(model(ids[:, :1]).logits, want) > 100 * TOLERANCE
        model.score.data[:] = model.score.data.flip(0)
        assert worst(model(ids).logits, want) > 100 * TOLERANCE


def test_no_words(case: MakeCase, tmp_path: Path) -> None:
    checkpoint, build = case("llama")
    model = builds.load(build, checkpoint)
    with pytest.raises(ValueError, match="scores texts, and generates none"):
        model.generate(torch.ones(1, 3, dtype=torch.int64))
    for command in ("verify", "run"):
        more = ["--prompt-ids", "3,4"] if command == "run" else []
        said = refused(glmc(command, build, "--weights", checkpoint, *more))
        assert "answers classes of a text" in said
    assert Build(build).model.scores


def test_one_rank_scores(case: MakeCase, tmp_path: Path) -> None:
    for option in ("--tensor-parallel", "--pipeline-parallel"):
        target = ("-o", tmp_path / "build", option, "2")
        assert "which one rank does" in refused(
            glmc("compile", case("llama")[0], *target)
        )


def test_passes_and_cplusplus(case: MakeCase, tmp_path: Path) -> None:
    checkpoint, build = case("qwen2")
    ids = calls()["plain"]["input_ids"]
    want = builds.load(build, checkpoint)(ids).logits
    for target in ("any", "cpu"):
        folder = tmp_path / target
        compile_model(checkpoint, folder, target=target, verify_passes=True)
        got = builds.load(folder, checkpoint)(ids).logits
        assert worst(got, want) <= TOLERANCE


def test_a_tied_embedding_is_no_head(tmp_path: Path) -> None:
    """Gemma's scores have a head of their own, whatever tie_word_embeddings is."""
    checkpoint = write("gemma", tmp_path / "gemma", 1)
    build = compile_model(checkpoint, tmp_path / "build")
    found = builds.load(build, checkpoint)(calls()["plain"]["input_ids"])
    assert found["logits"].shape == (3, 1)


def test_numbers_of_classes_that_cannot_be(case: MakeCase, tmp_path: Path) -> None:
    config = edits.read_config(case("llama")[0])
    config.pop("id2label", None)
    for wrong in (0, "five", True):
        source = edits.write_config(tmp_path, config | {"num_labels": wrong})
        with pytest.raises(GlmcError, match="num_labels must be a number above 0"):
            compile_model(source, tmp_path / "build")


def test_as_a_model_of_transformers(case: MakeCase) -> None:
    checkpoint, build = case("qwen3")
    ours = builds.import_build(build).hf.from_pretrained(checkpoint, dtype="float32")
    given = calls()["right"] | {"labels": torch.tensor([0, 4, 2])}
    got = ours(**given)
    want = theirs("qwen3", checkpoint)(**given)
    assert worst(got.logits, want.logits) <= TOLERANCE
    assert (got.loss - want.loss).abs() <= TOLERANCE
    assert not ours.can_generate()
