"""Lower bounds on the cost of an op: bytes that must move, operations to be done.

A *floor*, from types alone: every operand is read once and every result written once,
whatever an implementation does in between. The formulas stand with the op classes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from glmc.ir.state import StateType
from glmc.ir.types import BYTES, Dim, TensorType, Type


@dataclass(frozen=True)
class Call:
    """A call of the model: ``tokens`` of each of ``batch`` rows, after ``context``."""

    batch: int = 1
    tokens: int = 1
    context: int = 0

    def size(self, dims: Iterable[Dim]) -> int:
        """Return the number of elements of a shape, with its symbols filled in."""
        known = {"B": self.batch, "T": self.tokens}
        return math.prod(d if isinstance(d, int) else known.get(d, 1) for d in dims)

    def nbytes(self, of: Type) -> int:
        """Return the bytes of a tensor; 0 for a state, of which ops count what they
        touch."""
        return self.size(of.dims) * BYTES[of.dtype] if isinstance(of, TensorType) else 0

    def slots(self, window: int | None = None) -> int:
        """Return how many cached slots of a row any of its queries sees, with this
        call's."""
        seen = self.context + self.tokens
        return seen if window is None else min(seen, window + self.tokens - 1)

    def scores(self, window: int | None = None) -> int:
        """Count the (query, slot) pairs of one head and row: causal, at most ``window``
        a query."""
        first, last = self.context + 1, self.context + self.tokens
        if window is None or last <= window:
            return (first + last) * self.tokens // 2
        # Queries that see fewer than the window, and those that see all of it.
        few = max(0, window - first + 1)
        return (first + first + few - 1) * few // 2 + window * (self.tokens - few)

    def kept(self, state: StateType, dtype: str, tokens: int = 1) -> int:
        """Return the bytes of a state in every row, for ``tokens`` tokens if it is kept
        per token. ``dtype`` is the model's, for states without one of their own."""
        each = state.elements() * BYTES[state.dtype or dtype]
        return self.batch * each * (tokens if state.per == "token" else 1)


@dataclass(frozen=True)
class Cost:
    """Bytes moved and operations done (a multiply-add is two).

    dtype  of the operands of matrix products; all else is computed in f32
    """

    nbytes: int = 0
    flops: int = 0
    dtype: str = "f32"


def dtype_of(types: Iterable[Type]) -> str:
    """Return the dtype of the first float tensor, which is what an op computes in."""
    floats = [t.dtype for t in types if isinstance(t, TensorType) and "f" in t.dtype]
    return floats[0] if floats else "f32"
