"""Hyper-connections (https://arxiv.org/abs/2409.19606): residual streams [B, T, N, E]
that are mixed for each sublayer, by coefficients in fp32."""

import torch
import torch.nn.functional as F


def repeat_streams(x: torch.Tensor, *, count: int) -> torch.Tensor:
    """Spreads `x` [B, T, E] to `count` equal streams: a view [B, T, count, E]."""
    return x.unsqueeze(-2).expand(*x.shape[:-1], count, x.shape[-1])


def hyper_read(
    x: torch.Tensor,
    fn: torch.Tensor,
    base: torch.Tensor,
    scale: torch.Tensor,
    *,
    eps: float,
    norm_eps: float,
    iterations: int = 0,
    reach: float = 2.0,
    floor: float = 0.0,
) -> tuple[torch.Tensor, ...]:
    """Mixes streams [B, T, N, E] to what a sublayer reads, [B, T, E]; with it come the
    coefficients by which its result returns, fp32: `post` [B, T, N], and with
    `iterations` `comb` [B, T, N, N].

    `fn` [(2 + N) * N, N * E], or without `iterations` [2 * N, N * E], gives the
    coefficients of all streams at once; `base` has as many numbers, `scale` one for
    each kind. `comb` is made doubly stochastic by Sinkhorn's iterations.
    """
    count = x.shape[-2]
    made = coefficients(x, fn, norm_eps)
    pre, post, comb = (
        made[..., :count],
        made[..., count : 2 * count],
        made[..., 2 * count :],
    )
    h = mixture(x, pre * scale[0] + base[:count], eps)
    post = reach * (post * scale[1] + base[count : 2 * count]).sigmoid() + floor
    if not iterations:
        return h, post
    comb = (comb * scale[2] + base[2 * count :]).view(*post.shape, count)
    comb = comb.softmax(-1) + eps
    comb = comb / (comb.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + eps)
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
    return h, post, comb


def hyper_write(
    x: torch.Tensor,
    y: torch.Tensor,
    post: torch.Tensor,
    *,
    comb: torch.Tensor | None = None,
) -> torch.Tensor:
    """Hands `y` [B, T, E] out to the streams `x` [B, T, N, E]: stream n is
    `post[n] * y` and the sum of `comb[m, n] * x[m]`, or without `comb` itself."""
    kept = (
        x.float() if comb is None else torch.matmul(comb.transpose(-1, -2), x.float())
    )
    return (post.unsqueeze(-1) * y.float().unsqueeze(-2) + kept).to(x.dtype)


def hyper_head(
    x: torch.Tensor,
    fn: torch.Tensor,
    base: torch.Tensor,
    scale: torch.Tensor,
    *,
    eps: float,
    norm_eps: float,
) -> torch.Tensor:
    """Mixes streams [B, T, N, E] to [B, T, E], with `fn` [N, N * E], `base` [N] and
    `scale` [1] as in `hyper_read`."""
    return mixture(x, coefficients(x, fn, norm_eps) * scale + base, eps)


def mean_streams(x: torch.Tensor) -> torch.Tensor:
    """Averages streams [B, T, N, E] to [B, T, E]."""
    return x.mean(-2)


def coefficients(x: torch.Tensor, fn: torch.Tensor, norm_eps: float) -> torch.Tensor:
    """Maps all streams of a token, over their root mean square, to fp32 [B, T, rows of
    `fn`]."""
    flat = x.flatten(2).float()
    length = torch.rsqrt(flat.square().mean(-1, keepdim=True) + norm_eps)
    return F.linear(flat * length, fn)


def mixture(x: torch.Tensor, logits: torch.Tensor, eps: float) -> torch.Tensor:
    """Adds up streams [B, T, N, E] by the sigmoid of `logits` [B, T, N] plus `eps`."""
    shares = logits.sigmoid() + eps
    return (shares.unsqueeze(-1) * x.float()).sum(-2).to(x.dtype)
