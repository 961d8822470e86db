"""A whole emitted model computes the same with its kernels as with its reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glmc import compile_model
from support import GOLDEN, builds, encoders
from support.kernels import interpreter, kernels_of
from support.variants import BY_NAME, Tiny, Variant


def logits(
    model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Of a prompt, and of three tokens more with the cache."""
    prompt = ids.shape[1] - 3
    out = model(input_ids=ids[:, :prompt], attention_mask=mask[:, :prompt])
    found = [out.logits]
    for end in range(prompt + 1, ids.shape[1] + 1):
        out = model(
            input_ids=ids[:, end - 1 : end],
            attention_mask=mask[:, :end],
            past_key_values=out.past_key_values,
        )
        found.append(out.logits)
    return torch.cat(found, dim=1)


@pytest.mark.parametrize(
    "name", [pytest.param("chatglm2", marks=pytest.mark.slow), "chatglm3"]
)
def test_kernels_give_the_logits_of_the_reference(
    compiled: Callable[[Path], Path], name: str
) -> None:
    check(compiled(GOLDEN / name), GOLDEN / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["deepseek_v3-groups", "glm4_moe-air", "gpt_oss-sinks", "glm_moe_dsa-shared"],
)
def test_kernels_of_experts_and_latent_attention(
    compiled: Callable[[Path], Path], tiny: Callable[[Variant], Tiny], name: str
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    check(compiled(checkpoint), checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mamba-channels",
        "falcon_mamba-norms",
        "jamba-hybrid",
        "minimax-lightning",
        "recurrent_gemma-griffin",
        "rwkv-rescaled",
        "xlstm-memory",
    ],
)
def test_kernels_of_recurrences(
    compiled: Callable[[Path], Path], tiny: Callable[[Variant], Tiny], name: str
) -> None:
    checkpoint = tiny(BY_NAME[name]).checkpoint
    check(compiled(checkpoint), checkpoint)


def check(folder: Path, checkpoint: Path) -> None:
    build = builds.import_build(folder)
    model = build.load(checkpoint, device="cpu", dtype="float32")
    ids = torch.arange(24).reshape(2, 12) * 5 % 60
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    with torch.no_grad():
        want = logits(model, ids, mask)
        with interpreter():
            model.ops = kernels_of(build.__name__)
            got = logits(model, ids, mask)
    real = mask.bool()
    assert not torch.equal(got[real], want[real])
    torch.testing.assert_close(got[real], want[real], atol=2e-5, rtol=2e-5)


def test_kernels_give_the_answers_of_an_encoders_reference(tmp_path: Path) -> None:
    encoder = encoders.BY_NAME["gelu"]
    encoders.make(encoder, tmp_path / "checkpoint")
    compile_model(tmp_path / "checkpoint", tmp_path / "build")
    build = builds.import_build(tmp_path / "build")
    model = build.load(tmp_path / "checkpoint", device="cpu", dtype="float32")
    for name in ("padded on the right", "holes", "one token"):
        call = encoders.inputs()[name]
        model.ops = None
        want = encoders.answers(model, call)
        with interpreter():
            model.ops = kernels_of(build.__name__)
            got = encoders.answers(model, call)
        assert 0 < encoders.worst(got, want) <= 2e-5


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "gemma4_text-shared",
            "gemma2-capped",
            "bloom-alibi",
            "granite_swa-sinks",
        )
    ],
)
def test_kernels_of_changed_scores_give_the_logits_of_the_reference(
    tiny: Callable[[Variant], Tiny], compiled: Callable[[Path], Path], name: str
) -> None:
    case = tiny(BY_NAME[name])
    build = builds.import_build(compiled(case.checkpoint))
    model = build.load(case.checkpoint, device="cpu", dtype="float32")
    ids = torch.arange(16).reshape(2, 8) * 5 % 60
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    with torch.no_grad():
        want = logits(model, ids, mask)
        with interpreter():
            model.ops = kernels_of(build.__name__)
            got = logits(model, ids, mask)
    real = mask.bool()
    torch.testing.assert_close(got[real], want[real], atol=5e-5, rtol=5e-5)
