"""Mixers between their projections, as one op."""

import torch

from glmc.backends.torch.ops.recurrent import (
    add_skip,
    bounded_decay,
    decay,
    gated_norm,
    l2_normalize,
    scale_each,
    scan,
    short_conv,
    sigmoid,
    step_size,
)
from glmc.backends.torch.ops.state import RowState


def mix(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    step: torch.Tensor,
    conv_q: torch.Tensor,
    conv_k: torch.Tensor,
    conv_v: torch.Tensor,
    a_log: torch.Tensor,
    kept_q: RowState,
    kept_k: RowState,
    kept_v: RowState,
    state: RowState,
    *,
    bias_q: torch.Tensor | None = None,
    bias_k: torch.Tensor | None = None,
    bias_v: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    skip: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    norm: torch.Tensor | None = None,
    fn: str | None = None,
    l2_eps: float | None = None,
    low: float = 0.0,
    high: float | None = None,
    floor: float | None = None,
    steps: bool = False,
    factor: float = 1.0,
    scale: float = 1.0,
    eps: float | None = None,
    gate: str = "silu",
    order: str = "norm_first",
    weight_in: str = "input",
) -> torch.Tensor:
    """Reads tokens as a mixer does between its projections -> [B, T, H * Dv].

    `short_conv` of `q` and `k` [B, T, G * Dk] and `v` [B, T, H * Dv]; `l2_normalize` of
    q and k; of `step` [B, T, H] or [B, T, H * Dk] `step_size` and `decay`, or with a
    `floor` `bounded_decay`; with `steps` the step times v; `scan` with the sigmoid of
    `beta` [B, T, H]; `add_skip`; with `norm` the `gated_norm` of each head by `z`.
    """
    k_dim, v_dim = state.rows.shape[2:]
    heads = (
        _heads(short_conv(x, weight, kept, bias=bias, fn=fn)[0], width)
        for x, weight, kept, bias, width in (
            (q, conv_q, kept_q, bias_q, k_dim),
            (k, conv_k, kept_k, bias_k, k_dim),
            (v, conv_v, kept_v, bias_v, v_dim),
        )
    )
    q, k, v = heads
    if l2_eps is not None:
        q, k = (l2_normalize(x, eps=l2_eps) for x in (q, k))
    u = v
    if floor is None:
        moved = step_size(step, bias=dt_bias, low=low, high=high)
        g = decay(moved, a_log)
        u = scale_each(v, moved) if steps else v
    else:
        g = bounded_decay(step, a_log, bias=dt_bias, floor=floor)
    strength = None if beta is None else sigmoid(beta, factor=factor)
    y, _ = scan(q, k, u, g, state, beta=strength, scale=scale)
    if skip is not None:
        y = add_skip(y, v, skip)
    if z is None or norm is None or eps is None:
        return y.to(v.dtype)
    return gated_norm(
        y,
        z,
        norm,
        eps=eps,
        fn=gate,
        order=order,
        groups=len(a_log),
        weight_in=weight_in,
    )


def _heads(x: torch.Tensor, width: int) -> torch.Tensor:
    """Returns `x` [B, T, n * width] as [B, T, n, width]."""
    return x.reshape(*x.shape[:2], -1, width)
