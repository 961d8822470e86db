"""Attention over pooled tokens: a window of single ones, and before it entries that
stand for several.

A row's tokens are counted from `start`. Entry n stands for the `every` tokens from
`n * every` on, and is there once these are complete.
"""

import torch

from glmc.backends.torch.ops.attention import sunk_attention, visible_slots
from glmc.backends.torch.ops.sparse import SCORES, index_scores
from glmc.backends.torch.ops.state import RowState, StateView, TokenState


def pool_tokens(
    x: torch.Tensor,
    gates: torch.Tensor,
    bias: torch.Tensor,
    pending: RowState,
    *,
    every: int,
    overlap: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, RowState]:
    """Mixes the values `x` [B, T, D] of each window of `every` tokens that is complete
    now, channel by channel, by the softmax of `gates` [B, T, D] + `bias` [every, D] in
    fp32.

    Returns mixtures [B, N, D] and the first position of each window, int64 [B, N]: -1
    where it is not complete. With `overlap` values and gates are [B, T, 2 * D], and a
    window also has the first half of each token of the window before.
    """
    batch, tokens = x.shape[:2]
    kept = pending.rows.shape[1]
    given = torch.cat((x, gates), -1)
    joined = torch.cat((pending.rows.to(given.dtype), given), 1)
    first = row_positions(pending).expand(batch)
    window = first.clamp(min=0) // every
    count = -(-tokens // every)
    starts = (window[:, None] + torch.arange(count, device=first.device)) * every
    reach = torch.arange(-every if overlap else 0, every, device=first.device)
    at = starts[..., None] + reach
    source = (at - first[:, None, None] + kept).clamp(0, kept + tokens - 1)
    rows = torch.arange(batch, device=first.device)[:, None, None]
    value, gate = joined[rows, source].chunk(2, -1)
    biased = gate.float() + (bias.repeat(2, 1) if overlap else bias)
    if overlap:
        value, biased = own_halves(value), own_halves(biased)
    shares = biased.masked_fill((at < 0)[..., None], -torch.inf).softmax(2)
    pooled = (value * shares.to(value.dtype)).sum(2)
    done = starts + every <= (first + tokens)[:, None]
    pending.rows.copy_(joined[:, -kept:])
    return pooled, torch.where(done, starts, -1), pending


def own_halves(x: torch.Tensor) -> torch.Tensor:
    """Takes of `x` [B, N, 2 * every, 2 * D] the first half of the channels for the
    first `every` tokens, and the second for the others."""
    before, own = x.chunk(2, 2)
    half = x.shape[-1] // 2
    return torch.cat((before[..., :half], own[..., half:]), 2)


def row_positions(kept: StateView) -> torch.Tensor:
    """Returns the position of the first token of this call in each row, int64 [B] or
    [1]: below 0 where it is padding."""
    if kept.start is None:
        return torch.full((1,), kept.past, device=kept.position.device)
    return kept.past - kept.start.long()


def pool_write(entries: TokenState, x: torch.Tensor, at: torch.Tensor) -> TokenState:
    """Keeps the entries `x` [B, N, 1, D] of windows whose first positions are `at`
    [B, N], but for those at -1."""
    row = torch.arange(len(at), device=at.device)[:, None]
    slot = at.clamp(min=0) // entries.every
    if at.shape[1] > 1:  # several at -1 would all write the first slot
        row, n = torch.where(at >= 0)
        entries.slots[row, slot[row, n]] = x[row, n, 0]
    else:  # without a question to the host: a step that is recorded has one
        new = torch.where(at[..., None] >= 0, x[:, :, 0], entries.slots[row, slot])
        entries.slots[row, slot] = new
    return entries


def complete(entries: TokenState, tokens: int) -> torch.Tensor:
    """Returns a mask [1 or B, tokens, entries] of those that each query sees."""
    end = (entries.past + tokens) // entries.every
    queries = row_positions(entries)[:, None] + torch.arange(
        tokens, device=entries.position.device
    )
    slots = torch.arange(end, device=queries.device)
    return (slots + 1) * entries.every <= queries[..., None] + 1


def pool_select(
    q: torch.Tensor,
    x: torch.Tensor,
    entries: TokenState,
    weight: torch.Tensor,
    *,
    top_k: int,
    scale: float,
) -> torch.Tensor:
    """Selects the `top_k` entries that score highest, int64 [B, T, top_k], or none
    where there are no more: see `index_select`."""
    seen = complete(entries, q.shape[1])
    if seen.shape[-1] <= top_k:
        return torch.empty(*q.shape[:2], 0, dtype=torch.int64, device=q.device)
    totals = index_scores(q, x, written(entries, seen), weight, scale)
    return totals.masked_fill(~seen, -torch.inf).topk(top_k).indices


def written(entries: TokenState, seen: torch.Tensor) -> torch.Tensor:
    """Returns the entries [B, S, D] that some query sees, and zeros for others, which
    nothing was written into."""
    kept = entries.slots[:, : seen.shape[-1]]
    return kept.masked_fill(~seen.any(1)[..., None], 0)


def pooled_attention(
    q: torch.Tensor,
    kv: TokenState,
    *,
    entries: TokenState | None = None,
    selection: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    scale: float,
    window: int,
) -> torch.Tensor:
    """Attends with queries [B, T, H, D] to the last `window` slots of `kv` and to the
    complete `entries`, or a `selection` [B, T, N] of them -> [B, T, H * D].

    Slots and entries are key and value at once. `sinks` [H] share the softmax, which is
    in fp32. So many queries at a time that their scores fit.
    """
    batch, tokens, heads = q.shape[:3]
    pooled = seen = None
    if entries is not None:
        seen = complete(entries, tokens)
        pooled = written(entries, seen)
        if selection is not None and selection.shape[-1]:
            chosen = torch.zeros(*q.shape[:2], seen.shape[-1], dtype=torch.bool)
            seen = seen & chosen.to(q.device).scatter_(-1, selection, True)
    width = window + (0 if pooled is None else pooled.shape[1])
    rows = min(tokens, max(window, SCORES // (batch * heads * width)))
    contexts = []
    for at in range(0, tokens, rows):
        end = min(at + rows, tokens)
        begin = max(0, kv.past + at + 1 - window)
        slots = kv.slots[:, begin : kv.past + end]
        mask = visible_slots(kv, begin, kv.past + tokens, window, None, 0)
        mask = mask[:, 0, at:end, : slots.shape[1]].expand(batch, -1, -1)
        if pooled is not None and seen is not None:
            slots = torch.cat((slots, pooled), 1)
            mask = torch.cat((mask, seen[:, at:end].expand(batch, -1, -1)), -1)
        given = q[:, at:end].transpose(1, 2), slots[:, None], slots[:, None]
        context = sunk_attention(*given, mask[:, None], sinks, scale=scale)
        contexts.append(context.transpose(1, 2))
    return torch.cat(contexts, 1).flatten(2)


def grouped_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiplies each of G parts of the heads `x` [B, T, H, D], G * in channels, with
    its matrix of `weight` [G, out, in] -> [B, T, G * out]."""
    groups = x.flatten(2).view(*x.shape[:2], weight.shape[0], -1)
    return torch.einsum("btgi,goi->btgo", groups, weight).flatten(2)
