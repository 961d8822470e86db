"""The product in the place of another where an engine lays out weights anew; see
`select`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

LaidOut = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def linear(
    x: torch.Tensor, weight: torch.Tensor | LaidOut, *, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`x @ weight.T + bias`: [..., I] -> [..., O]; `weight` is [O, I], or what an
    engine made of it, which multiplies when it is called."""
    if isinstance(weight, torch.Tensor):
        return F.linear(x, weight, bias)
    return weight(x, bias)
