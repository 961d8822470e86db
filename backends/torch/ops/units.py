"""Recurrent units: gates of blocks, token shifts, and their scans."""

import torch
import torch.nn.functional as F

from glmc.backends.torch.ops.recurrent import SCANNED_AT_ONCE, _real, kept_after
from glmc.backends.torch.ops.state import RowState

_NEVER = -1e38
"""The exponent of what weighs nothing; infinities make nan of their differences."""


def block_linear(
    x: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`x_h @ weight[h] + bias[h]` for each of n equal parts of `x` [B, T, n * in], with
    `weight` [n, in, out] and `bias` [n, out] -> [B, T, n * out]."""
    parts = x.reshape(*x.shape[:2], *weight.shape[:2])
    y = torch.einsum("btni,nio->btno", parts, weight)
    return (y if bias is None else y + bias).flatten(2)


def lru_scan(
    x: torch.Tensor,
    i: torch.Tensor,
    r: torch.Tensor,
    rate: torch.Tensor,
    state: RowState,
    *,
    opened: torch.Tensor | None = None,
    power: float = 8.0,
) -> tuple[torch.Tensor, RowState]:
    """`h = a * h + sqrt(1 - a^2) * sigmoid(i) * x` of each channel, in fp32, where `a`
    is `exp(-power * sigmoid(r) * softplus(rate))`; a row begins with `sigmoid(i) * x`.

    `x`, `i` and `r` are [B, T, C], `rate` [C]. `state.rows` is h, float32 [B, C].
    With `opened` [B, T, C] the result is h times that.
    """
    tokens = x.shape[1]
    g = -power * torch.sigmoid(r.float()) * F.softplus(rate.float())
    u = torch.sigmoid(i.float()) * x.float()
    slots = state.position + torch.arange(tokens, device=x.device)
    begins = slots == (0 if state.start is None else state.start[:, None])
    u = torch.where(begins[..., None], u, torch.sqrt(-torch.expm1(2 * g)) * u)
    real = _real(state, tokens)
    u = u if real is None else torch.where(real[..., None], u, 0)
    each = kept_after(g.exp().transpose(0, 1), u.transpose(0, 1), state.rows)
    state.rows.copy_(each[-1])
    y = each.transpose(0, 1).to(x.dtype)
    return y if opened is None else y * opened, state


def token_shift(x: torch.Tensor, state: RowState) -> tuple[torch.Tensor, RowState]:
    """Returns the token before each of `x` [B, T, C], zeros before a row's first.
    `state.rows` [B, C] is the last token of the calls before."""
    real = _real(state, x.shape[1])
    x = x if real is None else torch.where(real[..., None], x, 0)
    before = torch.cat((state.rows[:, None].to(x.dtype), x[:, :-1]), 1)
    state.rows.copy_(x[:, -1])
    return before, state


def blend(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`weight * x + (1 - weight) * y`, with `weight` [C] for the channels of both."""
    return x * weight + y * (1 - weight)


def wkv_scan(
    k: torch.Tensor,
    v: torch.Tensor,
    rate: torch.Tensor,
    first: torch.Tensor,
    state: RowState,
    *,
    opened: torch.Tensor | None = None,
) -> tuple[torch.Tensor, RowState]:
    """Returns the mean of the values `v` up to each token, in fp32: at token t that of
    token s weighs `exp(k[s] - (t - 1 - s) * exp(rate))`, its own `exp(k[t] + first)`.

    `k` and `v` are [B, T, C], `rate` and `first` [C]. `state.rows`, float32 [B, 3, C],
    are the weighted sum, the sum of weights, and the exponent both are relative to.
    With `opened` [B, T, C] the result is the mean times the sigmoid of that.
    """
    real = _real(state, v.shape[1])
    keys, wide, ones = k.float(), v.float(), torch.ones_like(k, dtype=torch.float32)
    if real is not None:
        wide, ones = (torch.where(real[..., None], x, 0) for x in (wide, ones))
        keys = torch.where(real[..., None], keys, _NEVER)
    keys, wide, ones = (x.transpose(0, 1) for x in (keys, wide, ones))
    kept, fall = state.rows, rate.float().exp()
    # The exponents that sums are relative to, before each token and after the last.
    most = [torch.where(kept[:, 1] > 0, kept[:, 2], _NEVER)]
    for key in keys:
        most.append(torch.maximum(key, most[-1] - fall))
    tops = torch.stack(most)
    near, left = (keys - tops[1:]).exp(), (tops[:-1] - fall - tops[1:]).exp()
    written = near.unsqueeze(2) * torch.stack((wide, ones), 2)
    each = kept_after(left.unsqueeze(2), written, kept[:, :2])
    value, weight = torch.cat((kept[None, :, :2], each[:-1])).unbind(2)
    state.rows.copy_(torch.cat((each[-1], tops[-1].unsqueeze(1)), 1))
    own = keys + first.float()
    top = torch.maximum(tops[:-1], own)
    near, far = (own - top).exp(), (tops[:-1] - top).exp()
    y = (near * wide + far * value) / (near + far * weight)
    y = y.transpose(0, 1).to(v.dtype)
    return y if opened is None else y * torch.sigmoid(opened), state


def memory_scan(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    i: torch.Tensor,
    f: torch.Tensor,
    state: RowState,
    most: RowState,
    *,
    scale: float = 1.0,
    eps: float = 0.0,
) -> torch.Tensor:
    """`S = sigmoid(f) * S + exp(i) * k ⊗ [v, 1]` and `[y, n] = scale * Sᵀ q` of each
    head, divided by `c` -> `y / (max(|n|, 1 / c) + eps)`, [B, T, H * Dv], in fp32.

    `q` and `k` are [B, T, H, Dk], `v` [B, T, H, Dv], `i` and `f` [B, T, H]. `c` is the
    largest factor of any token in S, or the 1 that S begins with. `state.rows` is
    S / c, float32 [B, H, Dk, Dv + 1], `most.rows` the logarithm of c, float32 [B, H].
    """
    real, dtype = _real(state, v.shape[1]), v.dtype
    gain, fall = i.float(), F.logsigmoid(f.float())
    if real is not None:
        gain = torch.where(real[..., None], gain, _NEVER)
        fall = torch.where(real[..., None], fall, 0)
    q, k, v = (x.float().transpose(1, 2) for x in (scale * q, k, v))
    v = F.pad(v, (0, 1), value=1.0)
    gain, fall = (x.transpose(1, 2) for x in (gain, fall))
    kept, top, made = state.rows, most.rows[..., None], []
    for at in range(0, v.shape[2], SCANNED_AT_ONCE):
        part = slice(at, at + SCANNED_AT_ONCE)
        qc, kc, vc, ic = q[:, :, part], k[:, :, part], v[:, :, part], gain[:, :, part]
        total = fall[:, :, part].cumsum(2)
        between = total.unsqueeze(3) - total.unsqueeze(2) + ic.unsqueeze(2)
        later = torch.ones_like(between[0, 0], dtype=torch.bool).triu(1)
        between = between.masked_fill(later, _NEVER)
        begun = total + top
        each = torch.maximum(begun, between.amax(3))
        inside = (qc @ kc.transpose(2, 3)) * (between - each.unsqueeze(3)).exp()
        read = inside @ vc + (begun - each).exp().unsqueeze(3) * (qc @ kept)
        least = torch.maximum(read[..., -1].abs(), (-each).exp()) + eps
        made.append(read[..., :-1] / least.unsqueeze(3))
        top = each[:, :, -1:]
        written = (total[:, :, -1:] - total + ic - top).exp().unsqueeze(3) * kc
        kept = (begun[:, :, -1:] - top).exp().unsqueeze(3) * kept
        kept = kept + written.transpose(2, 3) @ vc
    state.rows.copy_(kept)
    most.rows.copy_(top.squeeze(2))
    return torch.cat(made, 2).transpose(1, 2).flatten(2).to(dtype)
