"""Forward passes: cache, masks, positions, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch

from glmc.backends.runtime.causal_lm import CausalLM
from glmc.backends.runtime.state import PerRow, PerToken, States

IDS = torch.tensor([[5, 9, 3, 41, 7, 30], [8, 8, 1, 0, 49, 12]])


def test_chunks_with_the_cache_equal_the_whole(model: CausalLM) -> None:
    whole = model(IDS).logits
    cache, pieces = None, []
    for part in IDS.split([3, 1, 1, 1], dim=1):
        out = model(input_ids=part, past_key_values=cache)
        cache = out.past_key_values
        pieces.append(out.logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    assert cache is not None
    assert cache.length == 6


def left_padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Row 1 is IDS[1, :4] behind two tokens of padding."""
    ids = IDS.clone()
    ids[1] = torch.tensor([33, 44, *IDS[1, :4]])
    return ids, torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])


def test_left_padding_changes_nothing(model: CausalLM) -> None:
    ids, mask = left_padded()
    out = model(ids, attention_mask=mask)
    torch.testing.assert_close(out.logits[0], model(IDS[:1]).logits[0])
    torch.testing.assert_close(out.logits[1, 2:], model(IDS[1:, :4]).logits[0])
    assert out.logits.isfinite().all()
    # Each further token with the mask, and without: the cache knows the padding.
    longer = torch.cat([mask, torch.ones(2, 1, dtype=mask.dtype)], 1)
    step = model(IDS[:, :1], longer, past_key_values=out.past_key_values)
    again = model(IDS[:, :1], past_key_values=step.past_key_values)
    row = torch.cat([IDS[1:, :4], IDS[1:, :1], IDS[1:, :1]], 1)
    torch.testing.assert_close(step.logits[1], model(row).logits[0, 4:5])
    torch.testing.assert_close(again.logits[1], model(row).logits[0, 5:6])


def test_control_unmasked_padding_is_seen(model: CausalLM) -> None:
    ids, _ = left_padded()
    wrong, right = model(ids).logits[1, 2:], model(IDS[1:, :4]).logits[0]
    assert (wrong - right).abs().max() > 1e-2


def test_right_padded_prompt_is_answered_but_not_continued(model: CausalLM) -> None:
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    out = model(IDS, mask)
    torch.testing.assert_close(out.logits[1, :4], model(IDS[1:, :4]).logits[0])
    with pytest.raises(ValueError, match="pad prompts on the left"):
        model(IDS[:, :1], past_key_values=out.past_key_values)


def test_positions_count_each_row_or_are_given(model: CausalLM) -> None:
    seen: list[torch.Tensor] = []
    model.run = lambda ids, pos, *_: seen.append(pos) or model.head[ids]  # type: ignore
    out = model(*left_padded())
    model(IDS[:, :1], past_key_values=out.past_key_values)
    model(IDS, position_ids=torch.arange(4, 10)[None])
    assert seen[0].tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]]
    assert seen[1].tolist() == [[6], [4]]
    assert seen[2].tolist() == [[4, 5, 6, 7, 8, 9]] * 2
    assert all(pos.dtype == torch.int64 and pos.is_contiguous() for pos in seen)


def test_logits_to_keep_and_use_cache(model: CausalLM) -> None:
    out = model(IDS, logits_to_keep=2, use_cache=False)
    torch.testing.assert_close(out.logits, model(IDS).logits[:, -2:])
    assert out.past_key_values is None


def test_output_is_accessed_like_a_model_output(model: CausalLM) -> None:
    out = model(IDS)
    logits, cache = out
    assert out[0] is out["logits"] is out.logits is logits
    assert out[1] is out["past_key_values"] is cache
    assert out[:1] == (logits,)


def test_printing_shows_the_weights(model: CausalLM) -> None:
    shown = str(model)
    assert "(0-2): 3 x Layer(" in shown
    assert "qkv: float32[64, 32]" in shown
    assert "embed: float32[50, 32]" in shown


REFUSED = {
    "holes": ([[1, 1, 0, 1, 1, 1], [1] * 6], "a 0 between the 1s of row 0"),
    "empty": ([[1] * 6, [0] * 6], "no 1 in row 1"),
    "shape": ([[1] * 5] * 2, r"is int64 [2, 5], but this call needs [2, 6]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_a_mask(model: CausalLM, name: str) -> None:
    mask, reason = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(reason)):
        model(IDS, torch.tensor(mask))


def test_refuses_a_mask_that_moves_the_padding(model: CausalLM) -> None:
    out = model(*left_padded())
    longer = torch.ones(2, 7, dtype=torch.bool)
    with pytest.raises(ValueError, match="marks other padding"):
        model(IDS[:, :1], longer, past_key_values=out.past_key_values)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (torch.tensor([1, 2]), "is int64 [2], but a model takes int64 [batch, tokens]"),
        (torch.ones(1, 2), "is float32 [1, 2]"),
        (torch.ones(1, 0, dtype=torch.int64), "is empty"),
        (torch.tensor([[3, 50]]), "ids from 3 to 50, but the vocabulary of this model"),
        (torch.tensor([[-1]]), "ids from -1 to -1"),
    ],
)
def test_refuses_ids(model: CausalLM, ids: torch.Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        model(ids)


def test_refuses_a_cache_of_other_rows(model: CausalLM) -> None:
    cache = model(IDS).past_key_values
    with pytest.raises(ValueError, match="holds 2 rows but input_ids has 1"):
        model(IDS[:1], past_key_values=cache)


def test_refuses_positions_of_another_shape(model: CausalLM) -> None:
    with pytest.raises(ValueError, match=re.escape("position_ids is int64 [2, 5]")):
        model(IDS, position_ids=torch.zeros(2, 5, dtype=torch.int64))


def test_refuses_positions_that_were_not_learned(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model), "max_positions", 6)
    cache = model(IDS).past_key_values
    with pytest.raises(ValueError, match=r"position 6, .* positions 0 to 5"):
        model(IDS[:, :1], past_key_values=cache)
    with pytest.raises(
        ValueError, match=r"from 9 to 9, but the positions of this model are 0 to 5"
    ):
        model(IDS[:, :1], position_ids=torch.tensor([[9]]))


@pytest.mark.parametrize(("name", "limit"), [("int8", 0.03), ("fp8_e4m3", 0.2)])
def test_a_cache_of_codes_answers_nearly_the_same(
    model: CausalLM, name: str, limit: float
) -> None:
    def logits() -> torch.Tensor:
        out = model(IDS[:, :4])
        rest = [
            model(IDS[:, n : n + 1], None, None, out.past_key_values) for n in (4, 5)
        ]
        return torch.cat([out.logits, *(step.logits for step in rest)], 1)

    exact = logits()
    full = model.new_cache(1, 64).own[0].keys.nbytes
    model.keep_cache_as(name)
    off = (logits() - exact).abs().max() / exact.abs().max()
    assert 0 < off < limit
    assert model.new_cache(1, 64).own[0].keys.nbytes * 4 == full


def test_a_cache_that_there_is_none_of_is_refused(model: CausalLM) -> None:
    with pytest.raises(ValueError, match=r"'int3'.*int8, fp8_e4m3"):
        model.keep_cache_as("int3")


def test_a_cache_with_an_indexers_keys_is_not_coded(model: CausalLM) -> None:
    for layer in model.layers:
        layer.states = States(layer.states, index=PerToken(4))
    with pytest.raises(ValueError, match=r"keep index \(PerToken\), and only keys"):
        model.keep_cache_as("int8")
    for layer in model.layers:
        layer.states = States(rows=PerRow(4))
    with pytest.raises(ValueError, match="keep no keys and values"):
        model.keep_cache_as("int8")
