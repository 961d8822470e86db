"""Block-sparse attention: an indexer selects blocks of the cached tokens.

Blocks are counted from the first real slot of a row, so that padding on the left moves
none of their borders. A selection is int64 [B, T, G, N], block numbers for each query
and each of G groups of heads; -1 stands for no block.
"""

import torch
import torch.nn.functional as F

from glmc.backends.torch.ops.attention import (
    visible_slots,
)
from glmc.backends.torch.ops.state import KvState, StateView, TokenState


def block_select(
    q: torch.Tensor, index: TokenState, *, block: int, top_k: int, local: int = 0
) -> torch.Tensor:
    """Selects the `top_k` blocks of `block` slots that hold the best keys for each
    query.

    A block is as good as the highest `q @ k` of its visible slots, for `q`
    [B, T, G, D] and the keys of the indexer, in fp32. The block of the query and those
    before it, `local` together, are better than all others.
    """
    end = index.past + q.shape[1]
    visible = visible_slots(index, 0, end, None, None, 0)
    keys = index.slots[:, None, :end].float().transpose(-1, -2)
    scores = torch.matmul(q.transpose(1, 2).float(), keys)
    scores = scores.masked_fill(~visible, -torch.inf)
    of_slot = block_of_slots(index, len(q), end, block)
    count = -(-end // block)
    best = scores.new_full((*scores.shape[:-1], count), -torch.inf)
    where = of_slot[:, None, None].expand(scores.shape)
    best = best.scatter_reduce(-1, where, scores, "amax")
    own = of_slot[:, index.past :, None]
    for back in range(local):
        near = (own - back).clamp(min=0)[:, None].expand(*best.shape[:-1], 1)
        best = best.scatter(-1, near, torch.inf)
    found = best.topk(min(top_k, count), dim=-1)
    chosen = found.indices.masked_fill(found.values == -torch.inf, -1)
    return chosen.transpose(1, 2)


def block_attention(
    q: torch.Tensor,
    kv: KvState,
    selection: torch.Tensor,
    *,
    block: int,
    scale: float,
) -> torch.Tensor:
    """Attends with queries [B, T, H, D] to the visible slots of `selection`'s blocks ->
    [B, T, H * Dv]; the heads of a group, H / G of them, see the same blocks."""
    end, groups = kv.past + q.shape[1], selection.shape[2]
    count = -(-end // block)
    kept = selection.new_zeros((*selection.shape[:-1], count + 1), dtype=torch.bool)
    kept = kept.scatter(-1, selection.clamp(min=-1) % (count + 1), True)[..., :count]
    of_slot = block_of_slots(kv, len(q), end, block)[:, None, None]
    seen = kept.gather(-1, of_slot.expand(*kept.shape[:-1], end)).transpose(1, 2)
    slots = torch.arange(end, device=q.device)
    seen = seen | (slots == slots[kv.past :, None])
    seen = seen & visible_slots(kv, 0, end, None, None, 0)
    context = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        kv.keys[:, :, :end],
        kv.values[:, :, :end],
        attn_mask=seen.repeat_interleave(q.shape[2] // groups, dim=1),
        scale=scale,
        enable_gqa=q.shape[2] != kv.keys.shape[1],
    )
    return context.transpose(1, 2).flatten(2)


def block_of_slots(kept: StateView, batch: int, end: int, block: int) -> torch.Tensor:
    """Returns the number of each slot's block, int64 [B, end]; padding is in block
    0."""
    slots = torch.arange(end, device=kept.position.device)
    if kept.start is None:
        return (slots // block).expand(batch, end)
    return (slots - kept.start[:, None].long()).clamp(min=0) // block
