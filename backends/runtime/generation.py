"""Token-by-token generation over a preallocated cache."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from .checks import check_ids
from .sampling import Sampler

if TYPE_CHECKING:
    from .causal_lm import CausalLM


def generate(
    model: "CausalLM",
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    pos: torch.Tensor | None,
    *,
    max_new_tokens: int,
    sampler: Sampler,
    eos: int | Sequence[int],
    pad: int | None,
) -> Iterator[torch.Tensor]:
    """Checks the arguments, then returns an iterator over the new tokens, int64 [B].

    `eos` are the ids that end a row; an ended row goes on with `pad` (by default the
    first of `eos`) until all rows have ended.
    """
    check_ids(ids, model.vocab_size)
    _check_length(ids.shape[1], max_new_tokens, model.max_positions)
    if mask is not None and mask.shape == ids.shape and not bool(mask[:, -1].all()):
        raise ValueError(
            "attention_mask ends a row with 0, so a prompt is padded on the right; "
            "pad on the left, because generation continues on the right."
        )
    stops = [eos] if isinstance(eos, int) else list(eos)
    if pad is None:
        pad = stops[0] if stops else 0
    return _steps(model, ids, mask, pos, max_new_tokens, sampler, stops, pad)


def _steps(
    model: "CausalLM",
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    pos: torch.Tensor | None,
    max_new_tokens: int,
    sampler: Sampler,
    stops: list[int],
    pad: int,
) -> Iterator[torch.Tensor]:
    batch, prompt = ids.shape
    cache = model.new_cache(batch, prompt + max_new_tokens)
    ended = torch.zeros(batch, dtype=torch.bool, device=ids.device)
    ends = torch.tensor(stops, dtype=torch.int64, device=ids.device)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            out = model(ids, mask, pos, past_key_values=cache, logits_to_keep=1)
            token = sampler(out.logits[:, -1]).masked_fill(ended, pad)
        yield token
        ended |= torch.isin(token, ends)
        if stops and bool(ended.all()):
            return
        # The cache knows from here on where each row starts.
        ids, mask = token[:, None], None
        pos = None if pos is None else _next(pos)


def _next(pos: torch.Tensor) -> torch.Tensor:
    """The positions after the last of `pos` [T], [B, T] or [B, 2, T], of whose streams
    the second counts."""
    after = pos[..., -1:].clone()
    counting = after[:, -1] if pos.ndim == 3 else after
    counting += 1
    return after


def _check_length(prompt: int, new: int, limit: int | None) -> None:
    if new < 1:
        raise ValueError(f"max_new_tokens is {new}; give 1 or more.")
    # The last new token is only answered, never read, so it needs no position.
    if limit is not None and prompt + new - 1 > limit:
        raise ValueError(
            f"a prompt of {prompt} tokens and max_new_tokens={new} go beyond the "
            f"{limit} positions of this model; shorten the prompt or ask for "
            f"{max(limit - prompt + 1, 0)} tokens at most."
        )
