"""Entries that stand for several tokens, against a loop over windows."""

from __future__ import annotations

import pytest
import torch

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import PerRow, PerToken
from glmc.backends.torch import ops

EVERY, WIDTH, TOKENS = 4, 6, 15
CALLS = ((15,), (1,) * 15, (7, 2, 6), (3, 4, 4, 4))


def pooled(
    x: torch.Tensor,
    gates: torch.Tensor,
    bias: torch.Tensor,
    overlap: bool,
    calls: tuple[int, ...],
    start: list[int] | None,
) -> tuple[torch.Tensor, Cache]:
    """The entries of rows whose tokens are read in several calls."""
    wide = x.shape[-1]
    kept = {
        "pending": PerRow(EVERY * (1 + overlap), 2 * wide),
        "entries": PerToken(WIDTH, every=EVERY),
    }
    cache = Cache([kept], len(x), TOKENS, torch.float32, "cpu")
    cache.start = None if start is None else torch.tensor(start, dtype=torch.int32)
    state, begin = cache.layers[0], 0
    for count in calls:
        part = slice(begin, begin + count)
        how = {"every": EVERY, "overlap": overlap}
        made, at, _ = ops.pool_tokens(
            x[:, part], gates[:, part], bias, state.pending, **how
        )
        ops.pool_write(state.entries, made[:, :, None], at)
        cache.advance(count)
        begin += count
    return state.entries.slots, cache


def by_loop(
    x: torch.Tensor, gates: torch.Tensor, bias: torch.Tensor, overlap: bool
) -> torch.Tensor:
    """The entries of one row, window by window and channel by channel."""
    made = []
    for first in range(0, len(x) - EVERY + 1, EVERY):
        parts = [(x[first + j], gates[first + j] + bias[j]) for j in range(EVERY)]
        if overlap:
            parts = [(v[WIDTH:], g[WIDTH:]) for v, g in parts]
            before = range(first - EVERY, first)
            parts += [
                (x[at][:WIDTH], gates[at][:WIDTH] + bias[j][:WIDTH])
                for j, at in enumerate(before)
                if at >= 0
            ]
        powers = torch.stack([gate.exp() for _, gate in parts])
        values = torch.stack([value for value, _ in parts])
        made.append((powers * values).sum(0) / powers.sum(0))
    return torch.stack(made)


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("overlap", [False, True])
def test_windows_in_any_calls(overlap: bool, calls: tuple[int, ...]) -> None:
    """Rows with padding on the left count their tokens from their first."""
    torch.manual_seed(0)
    wide = WIDTH * (1 + overlap)
    x, gates = torch.randn(2, TOKENS, wide), torch.randn(2, TOKENS, wide)
    bias = torch.randn(EVERY, wide)
    for start in (None, [3, 0], [6, 1]):
        found, _ = pooled(x, gates, bias, overlap, calls, start)
        for row, first in enumerate(start or [0, 0]):
            wanted = by_loop(x[row, first:], gates[row, first:], bias, overlap)
            torch.testing.assert_close(found[row, : len(wanted)], wanted)
    shifted = by_loop(x[0, 1:], gates[0, 1:], bias, overlap)
    assert not torch.allclose(found[1, : len(shifted)], shifted), "a control"


def test_what_is_kept_grows_and_is_counted_by_windows() -> None:
    cache = Cache([{"entries": PerToken(3, every=4)}], 2, 6, torch.float32, "cpu")
    state = cache.layers[0].entries
    assert state.slots.shape == (2, 2, 3)
    state.slots.copy_(torch.arange(12.0).view(2, 2, 3))
    state.grow(17, 5)
    assert state.slots.shape == (2, 5, 3)
    assert torch.equal(state.slots[:, :2], torch.arange(12.0).view(2, 2, 3))


def test_a_query_sees_an_entry_once_it_is_complete() -> None:
    cache = Cache([{"entries": PerToken(3, every=4)}], 2, 12, torch.float32, "cpu")
    cache.start = torch.tensor([0, 3], dtype=torch.int32)
    seen = ops.pooled.complete(cache.layers[0].entries, 9)
    assert seen[0].sum(-1).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert seen[1].sum(-1).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1]
