"""Positions of the first GLM models (arXiv:2103.10360): two streams, from the ids.

The tokens before `<sop>` see each other in both directions and count 0, 1, ... in the
first stream, with 0 in the second. From `<sop>` on the first stream stays at the token
that is filled in, the first [gMASK] or else the first [MASK], and the second counts.
"""

import torch

from .cache import Cache
from .checks import check_numbers


class GlmPositions:
    """Finds positions and the bidirectional part of each row in the ids of a prompt.

    `gmask`, `mask` and `sop` are token ids.
    """

    def __init__(self, *, gmask: int, mask: int, sop: int):
        self.gmask = gmask
        self.mask = mask
        self.sop = sop

    def __call__(
        self,
        given: torch.Tensor | None,
        cache: Cache,
        ids: torch.Tensor,
        max_positions: int | None,
    ) -> torch.Tensor:
        """Returns positions int64 [B, 2, T] of `ids` [B, T]: `given`, or found.

        The prompt, which the first call has to hold whole, sets `prefix` and `anchor`
        of the cache. Raises ValueError for a prompt without the special tokens.
        """
        batch, tokens = ids.shape
        slots = torch.arange(cache.length, cache.length + tokens, device=ids.device)
        begin = torch.full((batch, 1), cache.learned, device=ids.device)
        if cache.start is not None:
            begin = cache.start[:, None].long()
        if cache.prefix is None or cache.anchor is None:
            real = slots >= begin
            sop = self._first_sop(ids, real)
            cache.prefix = (cache.length + sop).int()
            cache.anchor = cache.length + self._first_mask(ids, real) - begin[:, 0]
        if given is not None:
            return _checked(given, batch, tokens).to(ids.device, torch.int64)
        prefix = cache.prefix[:, None]
        counted = (slots - begin).clamp(min=0)
        first = torch.where(slots < prefix, counted, cache.anchor[:, None])
        second = (slots - prefix + 1).clamp(min=0)
        return torch.stack((first, second), dim=1)

    def _first_sop(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        found = (ids == self.sop) & real
        self._check(found.any(1), f"no <sop> (id {self.sop})")
        return found.int().argmax(1)

    def _first_mask(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        gmask, mask = (ids == self.gmask) & real, (ids == self.mask) & real
        wanted = f"neither [gMASK] (id {self.gmask}) nor [MASK] (id {self.mask})"
        self._check((gmask | mask).any(1), wanted)
        return torch.where(gmask.any(1), gmask.int().argmax(1), mask.int().argmax(1))

    def _check(self, fine: torch.Tensor, lacking: str) -> None:
        rows = (~fine).nonzero().flatten().tolist()
        if rows:
            raise ValueError(
                f"input_ids has {lacking} in row {rows[0]}, but this model takes its "
                "positions from it; a prompt ends in [gMASK] <sop>. If this one does, "
                "the tokenizer has another vocabulary than the model."
            )


def _checked(given: torch.Tensor, batch: int, tokens: int) -> torch.Tensor:
    check_numbers("position_ids", given, None, "positions")
    if given.shape not in ((2, tokens), (1, 2, tokens), (batch, 2, tokens)):
        raise ValueError(
            f"position_ids has the shape {list(given.shape)}, but this call needs "
            f"[{batch}, 2, {tokens}]: two positions for each token of input_ids."
        )
    return given.expand(batch, 2, tokens).contiguous()
