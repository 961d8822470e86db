"""Embedding, linear maps, activations, and the reshapes between them."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "tanh": torch.tanh,
}


def embedding(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Looks up rows of `weight` [V, E] at `ids` int64 [B, T] -> [B, T, E]."""
    return F.embedding(ids, weight)


def known_ids(ids: torch.Tensor, *, limit: int) -> torch.Tensor:
    """`ids` int64 [B, T], and 0 for those that are `limit` or above it."""
    return torch.where(ids < limit, ids, 0)


def linear(
    x: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`x @ weight.T + bias`: [..., I] -> [..., O]; `weight` is [O, I]."""
    return F.linear(x, weight, bias)


def normalised_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`linear` with the rows of `weight` divided by their length."""
    return F.linear(x, F.normalize(weight))


def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Adds element by element."""
    return x + y


def add_bias(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`x` [B, T, n * D] plus `bias`, a number for each channel or each of n heads."""
    return (x.view(*x.shape[:-1], len(bias), -1) + bias.unsqueeze(-1)).view(x.shape)


def mul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Multiplies element by element."""
    return x * y


def activation(x: torch.Tensor, *, fn: str) -> torch.Tensor:
    """`fn(x)`, with `fn` a key of ACTIVATIONS; `gelu` is the erf form."""
    return ACTIVATIONS[fn](x)


def act_mul(gate_up: torch.Tensor, *, fn: str) -> torch.Tensor:
    """Gated activation `fn(gate) * up`: [..., 2F] laid out gate | up -> [..., F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[fn](gate) * up


def clamped_glu(
    gate: torch.Tensor,
    up: torch.Tensor,
    *,
    fn: str,
    limit: float,
    alpha: float | None = None,
    cut: str = "activated",
    soft: float | None = None,
) -> torch.Tensor:
    """`gate * sigmoid(alpha * gate) * (up + 1)` (gpt-oss), `gate` at most `limit`, `up`
    within ± `limit`; without `alpha`, `fn(gate)` at most `limit`, or with `cut` "gate"
    `fn` of a gate of at most that, times such an `up`. With `soft`
    `soft * tanh(gate / soft) * sigmoid(gate) * limit * tanh(up / limit)`, in fp32."""
    if soft is not None:
        wide, linear = gate.float(), limit * torch.tanh(up.float() / limit)
        bounded = soft * torch.tanh(wide / soft) * torch.sigmoid(wide)
        return (bounded * linear).to(gate.dtype)
    up = up.clamp(-limit, limit)
    if alpha is None and cut == "gate":
        return ACTIVATIONS[fn](gate.clamp(max=limit)) * up
    if alpha is None:
        return ACTIVATIONS[fn](gate).clamp(max=limit) * up
    gate = gate.clamp(max=limit)
    return gate * torch.sigmoid(gate * alpha) * (up + 1)


def xielu(
    x: torch.Tensor,
    alpha_p: torch.Tensor,
    alpha_n: torch.Tensor,
    *,
    beta: float,
    eps: float,
) -> torch.Tensor:
    """xIELU (https://arxiv.org/abs/2411.13010): quadratic above 0, exponential below.
    `alpha_p` and `alpha_n` [1] are stored before their softplus."""
    above = F.softplus(alpha_p) * x * x
    below = (torch.expm1(x.clamp(max=eps)) - x) * (beta + F.softplus(alpha_n))
    return torch.where(x > 0, above, below) + beta * x


def scale(x: torch.Tensor, *, factor: float, rounded: bool = False) -> torch.Tensor:
    """`factor * x`; `rounded` rounds the factor to the dtype of `x` first."""
    if rounded:
        return x * torch.tensor(factor, dtype=x.dtype, device="cpu")
    return x * factor


def scale_by(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`weight * x`, with `weight` [1], or [E] for the channels of `x` [..., E]."""
    return x * weight


def clamp(x: torch.Tensor, *, limit: float) -> torch.Tensor:
    """`x` cut off at plus and minus `limit`."""
    return x.clamp(-limit, limit)


def cut_below(x: torch.Tensor, *, deviations: float) -> torch.Tensor:
    """`max(0, x - c)`, with c the mean of the last dimension and `deviations` times its
    standard deviation."""
    mean = x.mean(-1, keepdim=True)
    spread = x.std(-1, keepdim=True, unbiased=False)
    return F.relu(x - (mean + deviations * spread))


def soft_cap(x: torch.Tensor, *, cap: float) -> torch.Tensor:
    """`cap * tanh(x / cap)`."""
    return cap * torch.tanh(x / cap)


def gate(x: torch.Tensor, g: torch.Tensor, *, fn: str) -> torch.Tensor:
    """`x * fn(g)`, `fn` sigmoid or softplus; `g` has a number for each channel of `x`
    [B, T, n * D], or for each of n heads."""
    opened = F.softplus(g) if fn == "softplus" else torch.sigmoid(g)
    grouped = x.view(*g.shape, -1) * opened.unsqueeze(-1)
    return grouped.view(x.shape)


def split(x: torch.Tensor, *, sizes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Cuts the last dimension into views of the given `sizes`."""
    return torch.split(x, list(sizes), dim=-1)


def concat(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Concatenates [..., I] and [..., J]: [..., I + J]."""
    return torch.cat((x, y), dim=-1)


def heads(x: torch.Tensor, *, n: int) -> torch.Tensor:
    """Views [B, T, n * D] as [B, T, n, D]."""
    return x.view(*x.shape[:-1], n, -1)


def first_token(x: torch.Tensor) -> torch.Tensor:
    """Returns the first token of [B, T, E]: a view [B, E]."""
    return x[:, 0]


def zeros_like(x: torch.Tensor) -> torch.Tensor:
    """Returns zeros of x's shape and dtype."""
    return torch.zeros_like(x)


def same(x: torch.Tensor) -> torch.Tensor:
    """Returns `x` itself."""
    return x
