"""Check a model's arguments, and complete those that callers leave out."""

import torch

from .cache import Cache
from .checks import check_numbers, check_rows, describe, of_kind, real_tokens, tracing


def check_cache(cache: object, batch: int, layers: int) -> None:
    """Refuses a cache that these rows of a model of so many layers cannot continue."""
    cache = of_kind(
        cache,
        Cache,
        f"past_key_values is a {type(cache).__name__}, but this model continues "
        "caches of its own: what a call before answered, or model.new_cache(...).",
    )
    if len(cache.layers) != layers:
        raise ValueError(
            f"past_key_values holds {len(cache.layers)} layers, but this model has "
            f"{layers}; continue a cache with the model that filled it."
        )
    if cache.batch != batch:
        raise ValueError(
            f"past_key_values holds {cache.batch} rows but input_ids has {batch}; "
            "continue the rows that the cache was filled with."
        )
    if cache.broken:
        raise ValueError(
            "past_key_values is of a call that broke off, which has changed what some "
            "layers keep for each row and others not; begin a new cache, or call its "
            "restart(), and read the tokens again."
        )
    if cache.right_padded:
        raise ValueError(
            "past_key_values comes from a prompt with padding on the right, whose "
            "slots cannot be continued; pad prompts on the left to decode from them."
        )


def check_keep(keep: object) -> None:
    """Refuses a number of positions that logits cannot be kept of."""
    if not isinstance(keep, int) or keep < 0:
        raise ValueError(f"logits_to_keep is {keep!r}; give 0 (all) or more.")


def read_mask(mask: torch.Tensor, cache: Cache, tokens: int) -> None:
    """Takes the first slot of each of the cache's rows from `mask`
    [B, past + tokens]."""
    if tracing():
        raise ValueError(
            "attention_mask is given while a program is recorded (torch.export, "
            "torch.compile), and where padding ends is not known then: record calls "
            "of rows without padding, and leave the mask out."
        )
    total = cache.tokens + tokens
    what = f"the {cache.tokens} tokens in the cache and the {tokens} new ones"
    real = real_tokens(mask, cache.batch, total, what).to(cache.device).int()
    check_rows(real.bool())
    count = real.sum(1)
    first = real.argmax(1)
    last = total - 1 - real.flip(1).argmax(1)
    _check_extent(count, last - first + 1)
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
    """Returns positions int64 [B, T]: `given`, or each row's tokens counted from its
    start."""
    batch, tokens = ids.shape
    if given is None:
        end = cache.tokens + tokens
        pos = torch.arange(cache.tokens, end, device=ids.device)[None]
        if cache.start is not None:
            pos = (pos - (cache.start - cache.learned)[:, None]).clamp(min=0)
        last = end - 1
    else:
        check_numbers("position_ids", given, max_positions, "positions")
        if given.shape not in ((tokens,), (1, tokens), (batch, tokens)):
            raise ValueError(
                f"position_ids is {describe(given)}, but this call needs "
                f"[{batch}, {tokens}]: a position for each token of input_ids."
            )
        pos = given.to(ids.device, torch.int64)
        return pos.expand(batch, tokens).contiguous()
    if max_positions is not None and last >= max_positions:
        raise ValueError(
            f"the call reaches position {last}, but this model has learned positions "
            f"0 to {max_positions - 1}; shorten the prompt."
        )
    return pos.expand(batch, tokens).contiguous()


def _check_extent(count: torch.Tensor, extent: torch.Tensor) -> None:
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
