"""Sparse attention: an indexer selects the slots of the cache that a query may see.

A selection is int64 [B, T, N], N slots for each query. An empty one (N = 0) stands for
all slots: as long as no more than the indexer may select are filled, nothing is sorted.
"""

import torch
import torch.nn.functional as F

from glmc.backends.torch.ops.state import StateView, TokenState

# Scores of single heads that are held at a time, so that a long prompt fits.
SCORES = 1 << 28


def no_selection(ids: torch.Tensor) -> torch.Tensor:
    """Returns the empty selection for `ids` [B, T]."""
    return ids.new_empty(*ids.shape, 0)


def token_write(kept: TokenState, x: torch.Tensor) -> TokenState:
    """Writes the vectors `x` [B, T, 1, D] into slots `past .. past + T`."""
    kept.slots[:, kept.past : kept.past + x.shape[1]] = x.squeeze(2)
    return kept


def index_select(
    q: torch.Tensor,
    x: torch.Tensor,
    index: TokenState,
    weight: torch.Tensor,
    *,
    top_k: int,
    scale: float,
) -> torch.Tensor:
    """Selects the `top_k` visible slots that score highest, int64 [B, T, top_k].

    A slot's score is the sum over the heads of `q` [B, T, H, D] of
    `w * relu(q @ k * scale)` in fp32, with `w = x @ weight.T * H ** -0.5`.
    """
    end = index.past + q.shape[1]
    if end <= top_k:
        return no_selection(q[..., 0, 0].long())
    totals = index_scores(q, x, index.slots[:, :end], weight, scale)
    hidden = ~visible(index, q.shape[1])
    return totals.masked_fill(hidden, -torch.inf).topk(top_k).indices


def index_scores(
    q: torch.Tensor,
    x: torch.Tensor,
    keys: torch.Tensor,
    weight: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Scores each of `keys` [B, S, D] for each query [B, T, H, D], fp32 [B, T, S]; see
    `index_select`."""
    batch, tokens, heads = q.shape[:3]
    turned = keys[:, None].float().transpose(-1, -2)
    shares = F.linear(x.float(), weight.float()).unsqueeze(-2) * heads**-0.5
    rows = max(1, SCORES // (batch * heads * keys.shape[1]))
    totals = []
    for first in range(0, tokens, rows):
        part = slice(first, first + rows)
        scores = torch.matmul(q[:, part].float(), turned) * scale
        totals.append(torch.matmul(shares[:, part], scores.relu()).squeeze(-2))
    return torch.cat(totals, 1)


def visible(kept: StateView, tokens: int) -> torch.Tensor:
    """Returns a mask [1 or B, tokens, past + tokens] of the slots that attention sees
    without a selection."""
    end = kept.past + tokens
    slots = torch.arange(end, device=kept.position.device)
    queries = slots[kept.past :, None]
    causal = slots <= queries
    if kept.start is None:
        return causal[None]
    return (causal & (slots >= kept.start[:, None, None])) | (slots == queries)
