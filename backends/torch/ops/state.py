"""States of a layer, as ops see them (`state.py` of a build)."""

from typing import Protocol

import torch


class StateView(Protocol):
    """A state of a layer, and the number of tokens that were read before."""

    @property
    def past(self) -> int:
        """Slots filled before this step."""

    @property
    def position(self) -> torch.Tensor:
        """`past` on the device, int32 [1]."""

    @property
    def start(self) -> torch.Tensor | None:
        """First slot of each row that is not padding, int32 [B]."""


class KvState(StateView, Protocol):
    """Keys and values, [B, K, capacity, D]."""

    keys: torch.Tensor
    values: torch.Tensor

    def write(self, begin: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Puts `k` and `v` [B, K, T, D] into the slots from `begin` on."""

    def read(
        self, begin: int, end: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values [B, K, end - begin, D] of some slots, as `dtype`."""


class TokenState(StateView, Protocol):
    """One tensor for each token, `slots` [B, capacity, ...], or for `every` so many."""

    slots: torch.Tensor
    every: int


class RowState(StateView, Protocol):
    """One tensor for each row, `rows` [B, ...], which an op overwrites in its place.

    It is zeros before the first token. Tokens in slots below `start` are padding and
    leave it as it is; in a call with one token for each row there are none.
    """

    rows: torch.Tensor
