"""Generation: greedy, stopping, streaming, padded batches, seeds."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.causal_lm import CausalLM
from glmc.backends.runtime.state import State

PROMPT = torch.tensor([[5, 9, 3, 41]])


def greedy(model: CausalLM, ids: torch.Tensor, new: int) -> torch.Tensor:
    """Without a cache, the whole sequence at every step."""
    for _ in range(new):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return ids


def test_greedy_equals_recomputing_everything(model: CausalLM) -> None:
    ids = model.generate(PROMPT, max_new_tokens=9, eos_token_id=())
    assert torch.equal(ids, greedy(model, PROMPT, 9))
    assert ids.dtype == torch.int64


def test_streams_one_tensor_a_step(model: CausalLM) -> None:
    whole = model.generate(PROMPT, max_new_tokens=5, eos_token_id=())
    steps = model.generate(PROMPT, max_new_tokens=5, eos_token_id=(), stream=True)
    first = next(iter(steps))
    assert first.shape == (1,)
    assert [int(first), *(int(token) for token in steps)] == whole[0, 4:].tolist()


def calls_of(model: CausalLM) -> list[int]:
    """Grows with each forward pass, by its tokens."""
    calls: list[int] = []
    model.layers[0].register_forward_hook(lambda _, x, y: calls.append(y.shape[1]))
    return calls


def test_streaming_is_lazy_but_arguments_are_checked_at_once(model: CausalLM) -> None:
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        model.generate(PROMPT, max_new_tokens=0, stream=True)
    calls = calls_of(model)
    steps = model.generate(PROMPT, max_new_tokens=5, eos_token_id=(), stream=True)
    assert len(calls) == 0
    next(iter(steps))
    assert len(calls) == 1


def test_last_token_costs_no_forward_pass(model: CausalLM) -> None:
    calls = calls_of(model)
    model.generate(PROMPT, max_new_tokens=5, eos_token_id=())
    assert calls == [4, 1, 1, 1, 1]


def test_positions_count_on_from_those_given(model: CausalLM) -> None:
    ids, pos = PROMPT, torch.tensor([[3, 4, 5, 6]])
    whole = model.generate(PROMPT, position_ids=pos, max_new_tokens=5, eos_token_id=())
    for step in range(5):
        given = torch.arange(3, 7 + step)[None]
        new = model(ids, position_ids=given).logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, new], 1)
    assert torch.equal(ids, whole)
    assert torch.equal(
        model.generate(PROMPT, position_ids=pos - 3, max_new_tokens=5, eos_token_id=()),
        model.generate(PROMPT, max_new_tokens=5, eos_token_id=()),
    )


def test_stops_at_an_id_and_keeps_it(model: CausalLM) -> None:
    free = greedy(model, PROMPT, 9)[0]
    stop = int(free[7])
    end = 5 + free[4:].tolist().index(stop)
    for eos in (stop, [stop, 1000], (stop,)):
        ids = model.generate(PROMPT, max_new_tokens=9, eos_token_id=eos)
        assert torch.equal(ids[0], free[:end])


def test_stops_at_the_models_own_id(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = greedy(model, PROMPT, 3)[0]
    monkeypatch.setattr(type(model), "eos_token_id", (int(free[4]),))
    assert model.generate(PROMPT, max_new_tokens=3).shape == (1, 5)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[5, 9, 3, 41], [0, 0, 7, 30], [0, 11, 12, 13]])
    return ids, torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]])


def test_padded_rows_equal_rows_alone(model: CausalLM) -> None:
    ids, mask = batch()
    together = model.generate(ids, mask, max_new_tokens=7, eos_token_id=())
    for row, prompt in enumerate((ids[:1], ids[1:2, 2:], ids[2:, 1:])):
        alone = greedy(model, prompt, 7)[0, prompt.shape[1] :]
        assert torch.equal(together[row, 4:], alone)


def test_ended_rows_are_padded_until_all_have_ended(model: CausalLM) -> None:
    ids, mask = batch()
    free = model.generate(ids, mask, max_new_tokens=7, eos_token_id=())[:, 4:]
    stop = int(free[0, 1])
    rows = [row.tolist() for row in free]
    ends = [row.index(stop) + 1 if stop in row else 7 for row in rows]
    options: dict[str, Any] = {"eos_token_id": stop, "pad_token_id": 49}
    made = model.generate(ids, mask, max_new_tokens=7, **options)[:, 4:]
    assert made.shape[1] == max(ends)
    for row, end, got in zip(rows, ends, made.tolist(), strict=True):
        assert got == row[:end] + [49] * (max(ends) - end)


def test_sampling_repeats_with_a_seed(model: CausalLM) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 3.0}
    one, two, other = (
        model.generate(PROMPT, seed=seed, eos_token_id=(), **options)
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_cache_is_allocated_once(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Cache] = []
    new_cache = type(model).new_cache
    monkeypatch.setattr(
        type(model), "new_cache", lambda *a: made.append(new_cache(*a)) or made[-1]
    )
    monkeypatch.setattr(State, "grow", None)
    model.generate(PROMPT, max_new_tokens=6, eos_token_id=())
    assert [cache.capacity for cache in made] == [10]


def test_nothing_is_recorded_for_gradients(model: CausalLM) -> None:
    model.head.requires_grad_(True)
    model.generate(PROMPT, max_new_tokens=2, eos_token_id=())


def test_refuses_right_padding(model: CausalLM) -> None:
    ids, mask = batch()
    with pytest.raises(ValueError, match="pad on the left"):
        model.generate(ids, mask.flip(1), max_new_tokens=2)


def test_refuses_more_positions_than_were_learned(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model), "max_positions", 10)
    assert model.generate(PROMPT, max_new_tokens=7, eos_token_id=()).shape == (1, 11)
    with pytest.raises(ValueError, match=re.escape("ask for 7 tokens at most")):
        model.generate(PROMPT, max_new_tokens=8)
