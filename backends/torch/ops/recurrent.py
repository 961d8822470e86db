"""Short convolutions and scans, whose states go from token to token."""

import torch
import torch.nn.functional as F

from glmc.backends.torch.ops.elementwise import ACTIVATIONS
from glmc.backends.torch.ops.state import RowState, StateView

SCANNED_AT_ONCE = 64
"""Tokens of a chunk where a head decays as a whole."""
SCANNED_BY_CHANNEL = 16
"""Tokens of a chunk where each channel of a key decays by itself."""


def _real(state: StateView, tokens: int) -> torch.Tensor | None:
    """Marks the tokens of a call that are no padding, bool [B, T]; None: all of
    them."""
    if state.start is None or tokens == 1:
        return None
    slots = torch.arange(state.past, state.past + tokens, device=state.start.device)
    return slots >= state.start[:, None]


def short_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    state: RowState,
    *,
    bias: torch.Tensor | None = None,
    fn: str | None = None,
) -> tuple[torch.Tensor, RowState]:
    """Causal convolution of each channel of `x` [B, T, C] by `weight` [C, W].

    `state.rows` [B, C, W] is a ring: the token in slot s lies in column s % W. Padding
    counts as zeros, and what comes of it is zeros.
    """
    tokens, width = x.shape[1], weight.shape[1]
    real = _real(state, tokens)
    if real is not None:
        x = torch.where(real[..., None], x, 0)
    # Columns of the W - 1 tokens before the call, the oldest first.
    before = (state.position + torch.arange(1, width, device=x.device)) % width
    kept = state.rows.index_select(2, before)
    seen = torch.cat((kept.to(x.dtype), x.transpose(1, 2)), 2)
    y = F.conv1d(seen, weight[:, None], bias, groups=len(weight)).transpose(1, 2)
    newest = torch.arange(max(0, tokens - width), tokens, device=x.device)
    written = seen[:, :, seen.shape[2] - len(newest) :].to(state.rows.dtype)
    state.rows.index_copy_(2, (state.position + newest) % width, written)
    y = y if fn is None else ACTIVATIONS[fn](y)
    return (y if real is None else torch.where(real[..., None], y, 0)), state


def scan(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    state: RowState,
    *,
    beta: torch.Tensor | None = None,
    scale: float = 1.0,
) -> tuple[torch.Tensor, RowState]:
    """`S = exp(g) * S + k ⊗ u`, `y = scale * Sᵀ q`, token by token, in fp32.

    `q` and `k` are [B, T, G, Dk], `v` [B, T, H, Dv], `g` [B, T, H] or [B, T, H, Dk],
    and y [B, T, H * Dv]. u is `v`, or with `beta` [B, T, H] the correction
    `beta * (v - (exp(g) * S)ᵀ k)`. `state.rows` is S, float32 [B, H, Dk, Dv].
    """
    tokens, heads = v.shape[1:3]
    real = _real(state, tokens)
    if real is not None:
        k, v = (torch.where(real[..., None, None], x, 0) for x in (k, v))
    q, k = (x.repeat_interleave(heads // x.shape[2], 2) for x in (q, k))
    q, k, u = (x.float().transpose(1, 2) for x in (q, k, v))
    g = g.float().view(*g.shape[:3], -1).transpose(1, 2)
    strength = None if beta is None else beta.float().transpose(1, 2).unsqueeze(-1)
    # A gradient may need what is overwritten below.
    begun = state.rows.clone() if torch.is_grad_enabled() else state.rows
    run = _token if tokens == 1 else _chunks
    y, kept = run(q, k, u, g, strength, begun)
    state.rows.copy_(kept)
    return (scale * y).transpose(1, 2).flatten(2).to(v.dtype), state


def _token(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor | None,
    kept: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns one token of each row by the recurrence itself: [B, H, 1, D] each."""
    kept = g.exp().transpose(2, 3) * kept
    u = v if beta is None else beta * (v - k @ kept)
    kept = kept + k.transpose(2, 3) * u
    return q @ kept, kept


def _chunks(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor | None,
    kept: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chunk after chunk, the tokens of each at once: [B, H, T, D] each.

    A chunk begins with S, of which `left[i]` is left at token i; between it and a token
    j before, d[i, j] is. What is written, `u[i] = beta[i] * (v[i] - (left[i] * S)ᵀ k[i]
    - Σ_{j<i} (d[i, j] * k[j] · k[i]) * u[j])`, is a triangular system of equations.
    """
    size = SCANNED_AT_ONCE if g.shape[-1] == 1 else SCANNED_BY_CHANNEL
    made = []
    for at in range(0, q.shape[2], size):
        qc, kc, u, total = (x[:, :, at : at + size] for x in (q, k, v, g))
        total = total.cumsum(2)
        left = total.exp()
        if beta is not None:
            strength = beta[:, :, at : at + size]
            system = strength * _products(kc, kc, total).tril(-1)
            u = strength * (u - (kc * left) @ kept)
            u = torch.linalg.solve_triangular(
                system, u, upper=False, unitriangular=True
            )
        made.append((qc * left) @ kept + _products(qc, kc, total) @ u)
        last = total[:, :, -1:]
        written = kc * (last - total).exp()
        kept = last.exp().transpose(2, 3) * kept + written.transpose(2, 3) @ u
    return torch.cat(made, 2), kept


def _products(q: torch.Tensor, k: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """`q[i] · k[j]`, of it what has not decayed from j to i; 0 where j is after i.

    `total` [B, H, C, 1 or Dk] are the sums of logarithms up to each token. Their
    differences are taken before exp, which of a sum alone might be 0 or infinite.
    """
    tokens = q.shape[2]
    before = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
    between = total.unsqueeze(3) - total.unsqueeze(2)
    decays = between.masked_fill(~before[..., None], float("-inf")).exp()
    if decays.shape[-1] == 1:
        return (q @ k.transpose(2, 3)) * decays.squeeze(-1)
    return torch.einsum("bhid,bhjd,bhijd->bhij", q, k, decays)


def selective_scan(
    v: torch.Tensor,
    step: torch.Tensor,
    k: torch.Tensor,
    q: torch.Tensor,
    a_log: torch.Tensor,
    skip: torch.Tensor,
    state: RowState,
    *,
    bias: torch.Tensor | None = None,
    opened: torch.Tensor | None = None,
) -> tuple[torch.Tensor, RowState]:
    """`S = exp(-exp(a_log) * step) * S + step * v * k`, `y = S q + skip * v`, token by
    token, in fp32.

    `v` and `step` are [B, T, I], `k` and `q` [B, T, G * N], each N for one of G equal
    parts of the channels, `a_log` [I, N], `skip` [I], and y is [B, T, I] in the dtype
    of `v`. `state.rows` is S, float32 [B, I, N]. With `bias` [I] steps are
    `softplus(step + bias)`; with `opened` [B, T, I] the result is y times that.
    """
    step = step if bias is None else step_size(step, bias=bias)
    real, states = _real(state, v.shape[1]), a_log.shape[1]
    wide = v.float() if real is None else torch.where(real[..., None], v, 0).float()
    rate, made, kept = -a_log.float().exp(), [], state.rows
    for at in range(0, v.shape[1], SCANNED_BY_CHANNEL):
        part = slice(at, at + SCANNED_BY_CHANNEL)
        # Tokens first: then what a token makes lies together.
        size, moved, keys, read = (
            x[:, part].float().transpose(0, 1) for x in (step, wide, k, q)
        )
        left = (size.unsqueeze(3) * rate).exp_()
        keys, read = (x.view(*x.shape[:2], -1, 1, states) for x in (keys, read))
        moved = (size * moved).view(*keys.shape[:3], -1, 1)
        each = kept_after(left, (moved * keys).flatten(2, 3), kept)
        kept = each[-1]
        each = each.view(*keys.shape[:3], -1, states)
        made.append((each @ read.transpose(3, 4)).flatten(2))
    state.rows.copy_(kept)
    y = (torch.cat(made).transpose(0, 1) + skip.float() * wide).to(v.dtype)
    return y if opened is None else y * opened, state


def kept_after(
    left: torch.Tensor, written: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """Returns what is kept after each token, `left[t] * kept + written[t]`, of the
    tensors [T, ...] of a few tokens."""
    if torch.is_grad_enabled():
        made = []
        for token in range(len(left)):
            kept = left[token] * kept + written[token]
            made.append(kept)
        return torch.stack(made)
    # In place: one pass over what a token writes, and no tensor of its own.
    for token in range(len(left)):
        kept = written[token].addcmul_(left[token], kept)
    return written


def l2_normalize(x: torch.Tensor, *, eps: float) -> torch.Tensor:
    """`x` divided by the length of its last dimension, float32."""
    wide = x.float()
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)


def step_size(
    x: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    low: float = 0.0,
    high: float | None = None,
) -> torch.Tensor:
    """`softplus(x + bias)` of `x` [B, T, H], between `low` and `high`, float32."""
    wide = x.float() if bias is None else x.float() + bias.float()
    return F.softplus(wide).clamp(low, high)


def decay(step: torch.Tensor, a_log: torch.Tensor) -> torch.Tensor:
    """`-exp(a_log) * step`, float32: [B, T, H], or of `step` [B, T, H * Dk] one for
    each channel of a key, [B, T, H, Dk]."""
    heads = len(a_log)
    if step.shape[-1] == heads:
        return -a_log.float().exp() * step
    by_head = step.view(*step.shape[:-1], heads, -1)
    return -a_log.float().exp().unsqueeze(-1) * by_head


def bounded_decay(
    x: torch.Tensor,
    a_log: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    floor: float,
) -> torch.Tensor:
    """`floor * sigmoid(exp(a_log) * (x + bias))`, float32: [B, T, H], or of `x`
    [B, T, H * Dk] one for each channel of a key, [B, T, H, Dk]."""
    wide = x.float() if bias is None else x.float() + bias.float()
    rate = a_log.float().exp()
    if wide.shape[-1] != len(rate):
        wide = wide.view(*wide.shape[:-1], len(rate), -1)
        rate = rate[:, None]
    return floor * torch.sigmoid(rate * wide)


def steady_decay(
    x: torch.Tensor,
    factors: torch.Tensor | None = None,
    *,
    heads: int,
    reach: float = 8.0,
    scale: float = 1.0,
    at: int = 0,
) -> torch.Tensor:
    """`-scale * 2^(-reach * (h + 1) / heads)` for head h of each token of `x` [B, T,
    C], float32 [B, T, heads]; with `factors` [1, 1, n] times number `at` of them."""
    number = torch.arange(1, heads + 1, device=x.device, dtype=torch.float32)
    g = -scale * torch.exp2(-reach * number / heads)
    g = g if factors is None else g * factors[..., at, None].float()
    return g.expand(*x.shape[:2], heads)


def sigmoid(x: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
    """`factor * sigmoid(x)`."""
    return torch.sigmoid(x) * factor


def scale_each(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """`x` [B, T, n, D] times `factor` [B, T, n], float32."""
    return x.float() * factor.unsqueeze(-1)


def add_skip(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`y` [B, T, n * D] plus `x` [B, T, n, D] times `weight` [n], as the dtype of x."""
    skipped = x.float() * weight.float().unsqueeze(-1)
    return (y.float() + skipped.flatten(2)).to(x.dtype)


def gated_norm(
    x: torch.Tensor,
    z: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    fn: str,
    order: str = "norm_first",
    groups: int = 1,
    weight_in: str = "input",
    centred: bool = False,
) -> torch.Tensor:
    """RMSNorm of `groups` equal parts of `x` [B, T, C], with `centred` a LayerNorm, and
    a gate `fn(z)`.

    "norm_first" gates what was normed, "gate_first" norms what was gated. `weight` is
    [C] or [C / groups], and multiplies what was rounded to the dtype of `z`, or with
    `weight_in` "f32" what was not.
    """
    opened = ACTIVATIONS[fn](z.float()) if fn == "silu" else torch.sigmoid(z.float())
    wide = x.float() * opened if order == "gate_first" else x.float()
    parts = wide.reshape(*wide.shape[:-1], groups, -1)
    parts = parts - parts.mean(-1, keepdim=True) if centred else parts
    parts = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + eps)
    parts = parts if weight_in == "f32" else parts.to(z.dtype)
    gain = weight if len(weight) == parts.shape[-1] else weight.view(groups, -1)
    y = (parts * gain).flatten(-2)
    return (y if order == "gate_first" else y * opened).to(z.dtype)
