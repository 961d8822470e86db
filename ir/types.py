"""Types of SSA values: tensors with symbolic dims, and what a layer keeps."""

import math

from glmc.ir.node import Node
from glmc.ir.state import StateType

Dim = int | str
"""A size, or a symbol: ``B`` batch, ``T`` tokens in this call."""

BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i8": 1, "bool": 1}


class TensorType(Node):
    """The type of a tensor, written ``bf16[B,T,4096]``."""

    dtype: str
    dims: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"

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
