"""Definitions in the place of others where an engine keeps keys, values and latents in
pages of its own, and attends; see `select`.

A call has the tokens of many requests in one row. What the ops are given as a state is
the engine's layer, which was made with the scale, the window and whatever else there is
to know: arguments of that kind are read by the ops that they stand for.
"""

from typing import Protocol

import torch


class PagedLayer(Protocol):
    """The attention of a layer, by the engine."""

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor | None, v: torch.Tensor | None
    ) -> torch.Tensor:
        """Keeps `k` and `v` [1, N, K, D], if any, and attends with `q` [1, N, H, D] ->
        [1, N, H * Dv]; of latents `k` [1, N, R] is one, and `v` [1, N, 1, r] the key
        that turned."""


Written = tuple[PagedLayer, torch.Tensor | None, torch.Tensor | None]


def kv_write(kv: PagedLayer, k: torch.Tensor, v: torch.Tensor) -> Written:
    """Hands on `k` and `v` [1, N, K, D] with the layer that keeps them."""
    return kv, k, v


def attention(
    q: torch.Tensor, kv: PagedLayer | Written, **said: object
) -> torch.Tensor:
    """Attends with queries [1, N, H, D] by the engine -> [1, N, H * Dv]."""
    layer, k, v = kv if isinstance(kv, tuple) else (kv, None, None)
    return layer(q, k, v)


def latent_write(
    latents: PagedLayer, latent: torch.Tensor, shared: torch.Tensor
) -> Written:
    """Hands on `latent` [1, N, R] and `shared` keys [1, N, 1, r] with the layer."""
    return latents, latent, shared


def latent_attention(
    q: torch.Tensor, latents: Written, kv_b: torch.Tensor, **said: object
) -> torch.Tensor:
    """Attends with queries [1, N, H, nope + r] by the engine -> [1, N, H * v]."""
    layer, latent, shared = latents
    return layer(q, latent, shared)
