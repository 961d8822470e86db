"""Speculative decoding, a cache that is gone on from, and texts that are too long."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glmc import compile_model
from support import builds
from support import tiny as tinies
from support.ranges import first
from support.variants import BY_NAME, Tiny, Variant

MakeTiny = Callable[[Variant], Tiny]
Compile = Callable[[Path], Path]
ASKED: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "seed": 5},
    "rules": {
        **{"do_sample": True, "top_p": 0.9, "seed": 3},
        **{"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    },
}


def like(model: Any, amount: float) -> None:
    """Change all weights a little: a draft that is often right."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(amount * torch.randn(weight.shape, generator=generator))


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    return ids, mask


KINDS = ("gpt2-tied", "qwen3_next-interval", "llama-gqa", "mistral-window")


@pytest.mark.parametrize("name", first(2, KINDS))
def test_no_token_is_another(name: str, tiny: MakeTiny, compiled: Compile) -> None:
    """The model's own choices, whatever the draft guesses: right, or nearly never."""
    case = tiny(BY_NAME[name])
    model, near, same = (
        builds.load(compiled(case.checkpoint), case.checkpoint) for _ in range(3)
    )
    like(near, 0.02)
    ids, mask = rows()
    common: dict[str, Any] = {"max_new_tokens": 17, "eos_token_id": ()}
    told: dict[int, list[int]] = {id(near): [0, 0], id(same): [0, 0]}
    for asked in ASKED.values():
        alone = model.generate(ids, mask, **common, **asked)
        for draft in (near, same):
            more = {"draft": draft, "draft_tokens": 3}
            got = model.generate(ids, mask, **more, **common, **asked)
            assert got.tolist() == alone.tolist()
            found = [int(word) for word in re.findall(r"\d+", model.decode_path)]
            told[id(draft)] = [
                a + b for a, b in zip(told[id(draft)], found, strict=True)
            ]
    guessed, right = told[id(near)]
    assert 0 < right < guessed  # both ways were gone
    assert told[id(same)][0] == told[id(same)][1]
    ended = {"max_new_tokens": 17, "eos_token_id": [int(alone[0, 9])]}
    plain = model.generate(ids, mask, **ended)
    assert plain.tolist() == model.generate(ids, mask, draft=near, **ended).tolist()


def test_drafts_that_are_refused(
    tiny: MakeTiny, compiled: Compile, tmp_path: Path
) -> None:
    case = tiny(BY_NAME["llama-gqa"])
    model = builds.load(compiled(case.checkpoint), case.checkpoint)
    ids, _ = rows()
    values = {**BY_NAME["llama-gqa"].config, "vocab_size": 96}
    tinies.make(Variant("llama", "smaller", values), tmp_path / "smaller")
    build = compile_model(tmp_path / "smaller", tmp_path / "build")
    other = builds.load(build, tmp_path / "smaller")
    with pytest.raises(ValueError, match="has 96 ids and this model 128"):
        model.generate(ids, draft=other)
    with pytest.raises(ValueError, match="draft is a Linear"):
        model.generate(ids, draft=torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="draft_tokens is 0"):
        model.generate(ids, draft=model, draft_tokens=0)
    cache = model.new_cache(2, 4)
    with pytest.raises(ValueError, match="do not go together"):
        model.generate(ids, draft=model, past_key_values=cache)


def test_a_cache_is_gone_on_from(tiny: MakeTiny, compiled: Compile) -> None:
    case = tiny(BY_NAME["qwen3_next-interval"])
    model = builds.load(compiled(case.checkpoint), case.checkpoint)
    ids, mask = rows()
    asked: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": ()}
    cache = model.new_cache(2, 4)
    model(ids[:, :4], mask[:, :4], None, cache)
    got = model.generate(ids, mask, past_key_values=cache, **asked)
    assert got.tolist() == model.generate(ids, mask, **asked).tolist()
    assert cache.tokens == got.shape[1] - 1  # the last token was never read
    more = torch.cat((got, ids[:, :3]), 1)
    longer = torch.nn.functional.pad(mask, (0, 9), value=1)
    again = model.generate(more, longer, past_key_values=cache, **asked)
    assert again.tolist() == model.generate(more, longer, **asked).tolist()
    with pytest.raises(ValueError, match="give the whole text"):
        model.generate(ids, mask, past_key_values=cache)
    with pytest.raises(ValueError, match="continues caches of its own"):
        model.generate(ids, mask, past_key_values=object())


def test_a_text_that_is_too_long_is_told_once(
    tiny: MakeTiny, compiled: Compile
) -> None:
    case = tiny(BY_NAME["llama-gqa"])
    model = builds.load(compiled(case.checkpoint), case.checkpoint)
    assert model.trained_positions == 256
    ids = torch.randint(3, 60, (1, 250))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(ids, max_new_tokens=7, eos_token_id=())
    for told in (1, 0):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            model.generate(ids, max_new_tokens=9, eos_token_id=())
        assert sum("made for 256" in str(one.message) for one in heard) == told
