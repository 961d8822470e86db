"""Types of SSA values: tensors with symbolic dims, and what a layer keeps."""

import math
from typing import TypeVar

from glmc.ir.node import Node
from glmc.ir.placement import REPLICATED, Placement
from glmc.ir.state import StateType

Dim = int | str
"""A size, or a symbol: ``B`` batch, ``T`` tokens in this call."""

BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i8": 1, "bool": 1}
BYTES |= {"f8": 1, "u8": 1}
"""``f8`` is e4m3; ``u8`` a power of two, by 127 more."""


class TensorType(Node):
    """The type of a tensor, written ``bf16[B,T,4096]``; that of one rank's, where
    several have it, ``bf16[B,T,2048] shard(2)``."""

    dtype: str
    dims: tuple[Dim, ...]
    placement: Placement = REPLICATED

    def __str__(self) -> str:
        dims = ",".join(map(str, self.dims))
        return f"{self.dtype}[{dims}]{self.placement.suffix}"

    def with_last(self, *last: Dim) -> "TensorType":
        """Return the type with its last dimension replaced by ``last``."""
        return TensorType(dtype=self.dtype, dims=(*self.dims[:-1], *last))

    def elements(self) -> int:
        """Count the elements with every symbolic dim at 1 (one token of one row)."""
        return math.prod(d for d in self.dims if isinstance(d, int))

    def nbytes(self) -> int:
        """Return the bytes with every symbolic dim at 1."""
        return self.elements() * BYTES[self.dtype]


Type = TensorType | StateType
Placed = TypeVar("Placed", TensorType, StateType, Type)


def placed(of: Placed, placement: Placement) -> Placed:
    """Return a type with another placement."""
    if of.placement == placement:
        return of
    return of.model_copy(update={"placement": placement})
