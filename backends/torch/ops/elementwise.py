"""Embedding, linear maps, activations, and the reshapes between them."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
}


def embedding(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Rows of `weight` [V, E] at `ids` int64 [B, T] -> [B, T, E]."""
    return F.embedding(ids, weight)


def linear(
    x: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`x @ weight.T + bias`: [..., I] -> [..., O]; `weight` is [O, I]."""
    return F.linear(x, weight, bias)


def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Elementwise sum."""
    return x + y


def mul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Elementwise product."""
    return x * y


def scale(x: torch.Tensor, *, factor: float) -> torch.Tensor:
    """`factor * x`."""
    return x * factor


def activation(x: torch.Tensor, *, fn: str) -> torch.Tensor:
    """`fn(x)`, with `fn` one of silu, gelu (erf), gelu_tanh, relu, tanh."""
    return ACTIVATIONS[fn](x)


def act_mul(gate_up: torch.Tensor, *, fn: str) -> torch.Tensor:
    """Gated activation `fn(gate) * up`: [..., 2F] laid out gate | up -> [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[fn](gate) * up


def split(x: torch.Tensor, *, sizes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Cuts the last dimension into views of the given `sizes`."""
    return torch.split(x, list(sizes), dim=-1)


def heads(x: torch.Tensor, *, n: int) -> torch.Tensor:
    """View of [B, T, n * D] as [B, T, n, D]."""
    return x.view(*x.shape[:-1], n, -1)


def join_heads(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """[B, T, n, D] and one head [B, T, 1, R] that all share -> [B, T, n, D + R]."""
    return torch.cat((x, y.expand(*x.shape[:-1], -1)), dim=-1)


def first_token(x: torch.Tensor) -> torch.Tensor:
    """The first token of [B, T, E]: a view [B, E]."""
    return x[:, 0]


def zeros_like(x: torch.Tensor) -> torch.Tensor:
    """Zeros of x's shape and dtype."""
    return torch.zeros_like(x)
