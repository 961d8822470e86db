"""The toy op in plain torch; copied into builds like any reference op."""

import torch

from glmc.backends.torch.ops.state import RowState


def running(
    x: torch.Tensor, decay: torch.Tensor, h: RowState
) -> tuple[torch.Tensor, RowState]:
    """Of `x` [B, T, C] and `decay` [C] the running sums [B, T, C]; h is float32."""
    state, sums = h.rows, []
    for token in range(x.shape[1]):
        new = decay.float() * state + x[:, token].float()
        if h.start is not None and x.shape[1] > 1:
            real = h.position + token >= h.start
            new = torch.where(real[:, None], new, state)
        state = new
        sums.append(state)
    h.rows.copy_(state)
    return torch.stack(sums, 1).to(x.dtype), h
