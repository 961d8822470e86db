"""Tables of positions besides rope, computed once a call; fp32 all of them."""

import math

import torch

from glmc.backends.torch.ops.rope import constant


def sinusoids(
    pos: torch.Tensor, *, dim: int, inclusive: bool = False, offset: int = 0
) -> torch.Tensor:
    """Returns sines and then cosines of all frequencies for `pos` int64 [B, T] ->
    [B, T, dim].

    Frequencies fall from 1 towards 1e-4, which is the last one itself if `inclusive`
    (fairseq) and else would be the next (CTRL). Positions count from `offset`.
    """
    angles = (pos + offset).unsqueeze(-1).float() * sinusoid_frequencies(
        dim // 2, inclusive, pos.device
    )
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


@constant
def sinusoid_frequencies(
    count: int, inclusive: bool, device: torch.device
) -> torch.Tensor:
    """`10000 ** (-j / n)` for j below `count`."""
    steps = torch.arange(count, dtype=torch.float32, device="cpu")
    if inclusive:
        return (steps * -(math.log(10000.0) / (count - 1))).exp().to(device)
    return (1.0 / 10000.0 ** (steps / count)).to(device)


def add_table(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """`x + table`, the fp32 `table` rounded to the dtype of `x` first."""
    return x + table.to(x.dtype)


def distances(
    ids: torch.Tensor, table: torch.Tensor, *, buckets: int, furthest: int
) -> torch.Tensor:
    """Looks up a number for each head and each pair of slots of `ids` [B, T] in `table`
    fp32 [rows, H], by how far the second is from the first -> [H, T, T] (T5).

    Half of the `buckets` are for slots after a query's own; of each half the first half
    is exact, and the others grow as logarithms up to the `furthest`.
    """
    slots = torch.arange(ids.shape[1], device=ids.device)
    apart = slots - slots[:, None]
    side = buckets // 2
    exact, far = side // 2, apart.abs()
    ratio = torch.log(far.float() / exact) / math.log(furthest / exact)
    grown = exact + (ratio * (side - exact)).long().clamp(max=side - 1 - exact)
    bucket = torch.where(far < exact, far, grown) + (apart > 0) * side
    return table[bucket].permute(2, 0, 1)


def alibi_slopes(
    pos: torch.Tensor, *, heads: int, max_bias: float = 8.0, scale: float = 1.0
) -> torch.Tensor:
    """`scale * 2 ** (-max_bias * (h + 1) / heads)` for each head, on the device of
    `pos` (ALiBi, https://arxiv.org/abs/2108.12409)."""
    return alibi_series(heads, max_bias, pos.device) * scale


@constant
def alibi_series(heads: int, max_bias: float, device: torch.device) -> torch.Tensor:
    """Returns the slopes of a power of two; of another number of heads the first ones
    have those of the power below, the others every second slope of the power above."""
    below = 2 ** math.floor(math.log2(heads))
    series = [2 ** (-max_bias * (h + 1) / below) for h in range(below)]
    extra = [2 ** (-max_bias * (h + 0.5) / below) for h in range(below)]
    return torch.tensor((series + extra)[:heads], dtype=torch.float32, device=device)


def query_scale(
    pos: torch.Tensor,
    *,
    beta: float | None = None,
    context: int,
    shift: int = 0,
    exponent: float | None = None,
) -> torch.Tensor:
    """`1 + beta * log(1 + floor((pos + shift) / context))` of `pos` [B, T], or with an
    `exponent` `(1 + (pos + shift) / context) ** exponent`."""
    share = (pos + shift).float() / context
    if exponent is not None:
        return torch.exp(exponent * torch.log1p(share))
    assert beta is not None
    return 1.0 + beta * torch.log(1.0 + torch.floor(share))


@constant
def factor_rows(
    rows: tuple[tuple[float, ...], ...], device: torch.device
) -> torch.Tensor:
    """`rows` as fp32 [1, 1, layers, n]; copied to a device once."""
    return torch.tensor(rows, device=device)[None, None]


def layer_factors(
    pos: torch.Tensor, *, rows: tuple[tuple[float, ...], ...]
) -> torch.Tensor:
    """Returns constants fp32 [1, 1, layers, n], a row for each layer, on the device of
    `pos`."""
    return factor_rows(tuple(map(tuple, rows)), pos.device)


def scale_by_factor(x: torch.Tensor, factors: torch.Tensor, *, at: int) -> torch.Tensor:
    """`x` times one of the layer's `factors` fp32 [1, 1, n], in the dtype of `x`."""
    return (x * factors[..., at, None]).to(x.dtype)


def scale_heads(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`x` [B, T, n, D] times a number for each token, `scale` [B, T]."""
    return x * scale[..., None, None].to(x.dtype)
