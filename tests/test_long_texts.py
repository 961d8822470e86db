"""Generations that get long: the keys of all tokens are turned by the long factors."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from support import builds, edits, reference, tiny
from support.kernels import interpreter, kernels_of
from support.tape import Tapes
from support.variants import BY_NAME, Variant

ORIGINAL = 16
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": ORIGINAL,
}
MSCALES = {"short_mscale": 1.2, "long_mscale": 1.3}
Make = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The checkpoint and the build of a family with longrope."""
    known: dict[str, tuple[Path, Path]] = {}

    def make(family: str) -> tuple[Path, Path]:
        if family not in known:
            folder = tmp_path_factory.mktemp(family)
            first = next(v for v in BY_NAME.values() if v.family == family)
            own = MSCALES if family == "phimoe" else {}
            more: dict[str, Any] = {"rope_parameters": {**LONGROPE, **own}}
            more |= {"original_max_position_embeddings": ORIGINAL}
            more |= {"max_position_embeddings": 256}
            variant = Variant(family, "long", {**first.config, **more})
            tiny.make(variant, folder / "checkpoint")
            compile_model(folder / "checkpoint", folder / "build")
            known[family] = folder / "checkpoint", folder / "build"
        return known[family]

    return make


def prompts(rows: int, tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(3, 60, (rows, tokens), generator=generator)


def without_cache(model: Any, ids: torch.Tensor, new: int) -> torch.Tensor:
    for _ in range(new):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.parametrize("tokens", [5, 15, 16, 17])
def test_tokens_are_those_that_transformers_generates(made: Make, tokens: int) -> None:
    checkpoint, build = made("phi3")
    ids, new = prompts(2, tokens), ORIGINAL - tokens + 9
    theirs = reference.load(checkpoint).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
    )
    ours = builds.load(build, checkpoint).generate(
        ids, max_new_tokens=new, eos_token_id=()
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", ["phi3", "phi4_multimodal", "llama"])
def test_tokens_are_those_of_transformers_without_a_cache(
    made: Make, family: str
) -> None:
    """With one, transformers 5.23 mixes the factors of a Llama, and its Phi-4 reads
    but the last token again."""
    checkpoint, build = made(family)
    ids = prompts(1, 5)
    ours = builds.load(build, checkpoint).generate(
        ids, max_new_tokens=18, eos_token_id=()
    )
    model = reference.load(checkpoint)
    model.config.use_cache = False
    assert torch.equal(ours, without_cache(model, ids, 18))


@pytest.mark.parametrize("family", ["phi3", "llama", "phimoe"])
def test_tokens_are_those_of_reading_everything_at_each_step(
    made: Make, family: str
) -> None:
    checkpoint, build = made(family)
    model, ids = builds.load(build, checkpoint), prompts(1, 12)
    got = model.generate(ids, max_new_tokens=10, eos_token_id=())
    assert torch.equal(got, without_cache(model, ids, 10))
    # Padding is no text: the other row is shorter by it.
    both = torch.cat((ids, prompts(1, 12)))
    mask = torch.tensor([[1] * 12, [0] * 5 + [1] * 7])
    rows = model.generate(both, mask, max_new_tokens=10, eos_token_id=())
    assert torch.equal(rows[:1], got)
    # Positions that are given count, not slots.
    pos = torch.arange(3, 15)[None]
    moved = model.generate(ids, position_ids=pos, max_new_tokens=6, eos_token_id=())
    assert moved.shape == (1, 18)


def test_control_keys_with_the_short_factors_are_seen(made: Make) -> None:
    checkpoint, build = made("phi3")
    model, ids = builds.load(build, checkpoint), prompts(1, 12)
    want = model.generate(ids, max_new_tokens=16, eos_token_id=())
    type(model).turns_at = ()
    wrong = model.generate(ids, max_new_tokens=16, eos_token_id=())
    assert torch.equal(want[:, :17], wrong[:, :17])
    assert not torch.equal(want, wrong)


@pytest.mark.slow
def test_kernels_under_replay(made: Make) -> None:
    checkpoint, folder = made("phi3")
    build = builds.import_build(folder)
    model = build.load(checkpoint, device="cpu", dtype="float32")
    ids = prompts(2, 13)
    mask = torch.tensor([[1] * 13, [0] * 3 + [1] * 10])
    options = {"max_new_tokens": 8, "eos_token_id": ()}
    want = model.generate(ids, mask, **options)
    tapes = Tapes()
    decoder = importlib.import_module(f"{build.__name__}.decoder")
    model._decoder = decoder.Decoder(lambda _: tapes)
    with interpreter():
        model.ops = kernels_of(build.__name__)
        got = model.generate(ids, mask, **options)
    assert torch.equal(got, want)
    # Seven steps, of which one reads everything.
    assert (len(tapes.recorded), tapes.replays) == (1, 6)


def test_a_cache_that_is_continued_by_hand_is_told(made: Make) -> None:
    """As in transformers such calls mix the factors; here they say so."""
    checkpoint, build = made("phi3")
    model, ids = builds.load(build, checkpoint), prompts(1, ORIGINAL + 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = model(ids[:, : ORIGINAL - 1])
        out = model(ids[:, ORIGINAL - 1 : ORIGINAL], past_key_values=out[1])
        model(ids)
    with pytest.warns(UserWarning, match="with position 16 the keys .* 16 tokens"):
        model(ids[:, ORIGINAL:], past_key_values=out.past_key_values)


def test_only_ropes_with_two_sets_of_factors_turn(tmp_path: Path, made: Make) -> None:
    checkpoint, _ = made("phi3")
    config = edits.read_config(checkpoint)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    source = edits.write_config(tmp_path / "source", config)
    build = compile_model(source, tmp_path / "build")
    assert builds.import_build(build).Model.turns_at == ()
