"""Several residual streams side by side, [B, T, N, E] (AltUp,
https://arxiv.org/abs/2301.13310)."""

import torch
import torch.nn.functional as F


def as_long(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Scales `x` [..., E] to the root mean square of `like`, in the dtype of `x`."""
    wanted = like.square().mean(-1, keepdim=True).sqrt()
    own = x.square().mean(-1, keepdim=True).clamp(min=1e-5).sqrt()
    return x * wanted / own


def spread_streams(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Spreads `x` [B, T, E] to streams [B, T, N, E]: itself, and its products with
    `weight` [N - 1, E, E], as long as it."""
    first = x.unsqueeze(-2)
    others = F.linear(x, weight.flatten(0, 1)).view(*x.shape[:-1], *weight.shape[:2])
    return torch.cat((first, as_long(others, first)), dim=-2)


def gather_streams(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Reduces streams [B, T, N, E] to [B, T, E]: the mean of the first and of the
    products of the others with `weight` [N - 1, E, E], as long as the first."""
    first, others = x[..., :1, :], x[..., 1:, :]
    made = torch.einsum("btne,nfe->btnf", others, weight)
    return torch.cat((first, as_long(made, first)), dim=-2).mean(-2)


def mix_streams(x: torch.Tensor, coefs: torch.Tensor) -> torch.Tensor:
    """`x + C @ x` for `x` [B, T, N, E], with C [N, N] from `coefs` [B, T, N * N]: row n
    says what stream n gets of every stream."""
    return torch.matmul(coefs.view(*coefs.shape[:-1], x.shape[-2], -1), x) + x


def stream(x: torch.Tensor, *, at: int) -> torch.Tensor:
    """Returns one stream of [B, T, N, E]: a view [B, T, E]."""
    return x[..., at, :]


def correct_streams(
    x: torch.Tensor, y: torch.Tensor, coefs: torch.Tensor, *, at: int
) -> torch.Tensor:
    """`x + (1 + coefs) * (y - x[at])` for `x` [B, T, N, E], `coefs` [B, T, N] and `y`
    [B, T, E]."""
    change = (y - x[..., at, :]).unsqueeze(-2)
    return x + (1 + coefs).unsqueeze(-1) * change


def add_to_others(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Adds `y` [B, T, E] to all streams [B, T, N, E] but the first."""
    first, others = x[..., :1, :], x[..., 1:, :]
    return torch.cat((first, others + y.unsqueeze(-2)), dim=-2)
