"""Ops between ranks that compute one model together, and ops of one rank's part."""

import torch
import torch.nn.functional as F

from glmc.backends.runtime.ranks import current
from glmc.backends.torch.ops.norms import add_layer_norm, add_rms_norm


def all_reduce(x: torch.Tensor) -> torch.Tensor:
    """Sums every rank's `x`."""
    return current().sum(x)


def all_gather(x: torch.Tensor, *, dim: int, ranks: int, size: int) -> torch.Tensor:
    """Joins the parts of all `ranks` along `dim`, and takes the first `size`."""
    parts = current().gather(x)
    assert len(parts) == ranks
    return torch.cat(parts, dim).narrow(dim, 0, size)


def reduce_scatter(x: torch.Tensor, *, dim: int, ranks: int) -> torch.Tensor:
    """Sums every rank's `x`, and takes this rank's part along `dim`."""
    return own_part(current().sum(x), dim=dim, ranks=ranks)


def reduce_add_rms_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    weight_in: str = "input",
    unit_offset: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_rms_norm` of `x` and the sum of every rank's `y`."""
    total = current().sum(y)
    return add_rms_norm(
        x, total, weight, eps=eps, weight_in=weight_in, unit_offset=unit_offset
    )


def reduce_add_layer_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    eps: float,
    unit_offset: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_layer_norm` of `x` and the sum of every rank's `y`."""
    total = current().sum(y)
    return add_layer_norm(x, total, weight, bias=bias, eps=eps, unit_offset=unit_offset)


def zeros_summand(x: torch.Tensor) -> torch.Tensor:
    """Returns zeros of x's shape and dtype, which every rank adds."""
    return torch.zeros_like(x)


def own_part(x: torch.Tensor, *, dim: int, ranks: int, copies: int = 1) -> torch.Tensor:
    """Takes this rank's part of `x` along `dim`; `copies` of the `ranks` after one
    another have the same of the equal parts."""
    size = x.shape[dim] * copies // ranks
    return x.narrow(dim, current().rank // copies * size, size)


def own_rows(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Looks up rows of a table at `ids` int64 [B, T] -> [B, T, E]. `weight` [V, E] is
    this rank's part of it; of the rows of other ranks there are zeros."""
    at = ids - current().rank * len(weight)
    mine = (at >= 0) & (at < len(weight))
    rows = F.embedding(torch.where(mine, at, 0), weight)
    return rows * mine.unsqueeze(-1)


def own_weights(
    experts: torch.Tensor, weights: torch.Tensor, *, first: int
) -> torch.Tensor:
    """Returns `weights` [B, T, k], on all ranks but the first with 0 for `experts` from
    `first` on."""
    return weights if current().rank == 0 else weights * (experts < first)


def own_experts(
    experts: torch.Tensor,
    weights: torch.Tensor,
    *,
    count: int,
    first: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts `experts` int64 [B, T, k] among the `count` of this rank; those of other
    ranks are the first of them, with 0 in place of their `weights`. Those from `first`
    on are the first rank's, after its own."""
    at = experts - current().rank * count
    mine = (at >= 0) & (at < count)
    if first is not None:
        beyond = experts >= first
        at = torch.where(beyond, experts - first + count, at)
        mine = torch.where(beyond, current().rank == 0, mine)
    return torch.where(mine, at, 0), weights * mine


def square_sum(x: torch.Tensor) -> torch.Tensor:
    """Sums the squares of the last dimension in fp32: [..., D] -> [..., 1]."""
    return x.float().square().sum(-1, keepdim=True)


def rms_norm_part(
    x: torch.Tensor,
    squares: torch.Tensor,
    weight: torch.Tensor,
    *,
    width: int,
    eps: float,
    weight_in: str = "input",
    unit_offset: bool = False,
) -> torch.Tensor:
    """Computes a part of the norm over `width` channels, whose squares sum up to
    `squares` [..., 1]; otherwise as `rms_norm`."""
    scaled = x.float() * torch.rsqrt(squares / width + eps)
    gain = 1.0 + weight.float() if unit_offset else weight
    if weight_in == "f32":
        return (scaled * gain).to(x.dtype)
    return (scaled.to(x.dtype) * gain).to(x.dtype)
