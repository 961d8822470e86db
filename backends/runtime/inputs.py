"""What a model is called with: checked, and completed where callers leave it out."""

import torch

from .cache import Cache
from .checks import describe


def check_cache(cache: Cache, batch: int) -> None:
    """Refuses a cache that these rows cannot continue."""
    if cache.batch != batch:
        raise ValueError(
            f"past_key_values holds {cache.batch} rows but input_ids has {batch}; "
            "continue the rows that the cache was filled with."
        )
    if cache.right_padded:
        raise ValueError(
            "past_key_values comes from a prompt with padding on the right, whose "
            "slots cannot be continued; pad prompts on the left to decode from them."
        )


def read_mask(mask: torch.Tensor, cache: Cache, tokens: int) -> None:
    """Takes from `mask` [B, past + tokens] where the rows of the cache start."""
    total = cache.tokens + tokens
    if mask.shape != (cache.batch, total):
        raise ValueError(
            f"attention_mask is {describe(mask)}, but this call needs "
            f"[{cache.batch}, {total}]: a 0 or 1 for each of the {cache.tokens} tokens "
            f"in the cache and the {tokens} new ones."
        )
    real = (mask != 0).int()
    count = real.sum(1)
    first = real.argmax(1)
    last = total - 1 - real.flip(1).argmax(1)
    _check_rows(count, last - first + 1)
    start = (first + cache.learned).int() if bool(first.any()) else None
    if cache.tokens > 0 and not _same(start, cache.start):
        raise ValueError(
            "attention_mask marks other padding than the mask of the call that began "
            "this cache; keep each row's mask and append a 1 for each new token."
        )
    cache.start = start
    cache.right_padded = bool((last < total - 1).any())


def positions(
    given: torch.Tensor | None,
    cache: Cache,
    ids: torch.Tensor,
    max_positions: int | None,
) -> torch.Tensor:
    """Positions int64 [B, T]: `given`, or each row's tokens counted from its start."""
    batch, tokens = ids.shape
    if given is None:
        end = cache.tokens + tokens
        pos = torch.arange(cache.tokens, end, device=ids.device)[None]
        if cache.start is not None:
            pos = (pos - (cache.start - cache.learned)[:, None]).clamp(min=0)
        last = end - 1
    else:
        if given.shape not in ((tokens,), (1, tokens), (batch, tokens)):
            raise ValueError(
                f"position_ids is {describe(given)}, but this call needs "
                f"[{batch}, {tokens}]: a position for each token of input_ids."
            )
        pos = given.to(ids.device, torch.int64)
        last = int(pos.max())
    if max_positions is not None and last >= max_positions:
        raise ValueError(
            f"the call reaches position {last}, but this model has learned positions "
            f"0 to {max_positions - 1}; shorten the prompt."
        )
    return pos.expand(batch, tokens).contiguous()


def _check_rows(count: torch.Tensor, extent: torch.Tensor) -> None:
    empty = (count == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"attention_mask has no 1 in row {empty[0]}; drop the row or give it a "
            "token."
        )
    broken = (count != extent).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"attention_mask has a 0 between the 1s of row {broken[0]}; only padding "
            "at the ends of a row is supported, so remove the tokens in the middle."
        )


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)
