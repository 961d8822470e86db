"""Hyper-connections against formulas stream by stream."""

from __future__ import annotations

import torch

from glmc.backends.torch import ops

N, E = 3, 8


def maps(rows: int, kinds: int) -> tuple[torch.Tensor, ...]:
    return torch.randn(rows, N * E) / 5, torch.randn(rows) / 3, torch.randn(kinds)


def test_what_is_read_and_how_it_comes_back() -> None:
    torch.manual_seed(0)
    x, (fn, base, scale) = torch.randn(2, 4, N, E), maps((2 + N) * N, 3)
    how = {"eps": 1e-3, "norm_eps": 1e-2}
    h, post, comb = ops.hyper_read(x, fn, base, scale, **how, iterations=50)
    flat = x[1, 2].flatten()
    m = fn @ (flat / (flat.square().mean() + 1e-2).sqrt())
    pre = (m[:N] * scale[0] + base[:N]).sigmoid() + 1e-3
    wanted = sum(pre[n] * x[1, 2, n] for n in range(N))
    torch.testing.assert_close(h[1, 2], wanted)
    back = 2 * (m[N : 2 * N] * scale[1] + base[N : 2 * N]).sigmoid()
    torch.testing.assert_close(post[1, 2], back)
    # With so many iterations rows and columns sum to one, but for eps.
    for dim in (-1, -2):
        assert ((comb.sum(dim) - 1).abs() < 1e-2).all()
    y = torch.randn(2, 4, E)
    out = ops.hyper_write(x, y, post, comb=comb)
    streams = [sum(comb[0, 1, j, n] * x[0, 1, j] for j in range(N)) for n in range(N)]
    for n, kept in enumerate(streams):
        torch.testing.assert_close(out[0, 1, n], post[0, 1, n] * y[0, 1] + kept)
    other = sum(comb[0, 1, 0, j] * x[0, 1, j] for j in range(N))
    assert not torch.allclose(out[0, 1, 0], post[0, 1, 0] * y[0, 1] + other), "control"


def test_without_a_mixture_among_streams() -> None:
    torch.manual_seed(1)
    x, (fn, base, scale) = torch.randn(2, 4, N, E), maps(2 * N, 2)
    how = {"eps": 1e-3, "norm_eps": 1e-2, "reach": 1.5, "floor": 0.1}
    _, post = ops.hyper_read(x, fn, base, scale, **how)
    y = torch.randn(2, 4, E)
    out = ops.hyper_write(x, y, post)
    torch.testing.assert_close(out, x + post[..., None] * y[..., None, :])
    assert post.min() >= 0.1
    assert post.max() <= 1.6


def test_the_head_reads_a_mixture_or_the_mean() -> None:
    torch.manual_seed(2)
    x, (fn, base, scale) = torch.randn(2, 4, N, E), maps(N, 1)
    read = ops.hyper_head(x, fn, base, scale, eps=1e-3, norm_eps=1e-2)
    flat = x[0, 0].flatten()
    m = fn @ (flat / (flat.square().mean() + 1e-2).sqrt()) * scale + base
    wanted = ((m.sigmoid() + 1e-3)[:, None] * x[0, 0]).sum(0)
    torch.testing.assert_close(read[0, 0], wanted)
    torch.testing.assert_close(ops.mean_streams(x), x.sum(2) / N)
    assert torch.equal(ops.repeat_streams(x[:, :, 0], count=2)[:, :, 1], x[:, :, 0])
