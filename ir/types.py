"""Types of SSA values: tensors with symbolic dims, and a layer's key/value cache."""

import math

from glmc.ir.node import Node

Dim = int | str
"""A size, or a symbol: ``B`` batch, ``T`` tokens in this call."""

BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i8": 1, "bool": 1}


class TensorType(Node):
    """``bf16[B,T,4096]``."""

    dtype: str
    dims: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"

    def with_last(self, *last: Dim) -> "TensorType":
        """The same tensor with its last dimension replaced by ``last``."""
        return TensorType(dtype=self.dtype, dims=(*self.dims[:-1], *last))

    def elements(self) -> int:
        """Element count with every symbolic dim at 1 (one token of one row)."""
        return math.prod(d for d in self.dims if isinstance(d, int))

    def nbytes(self) -> int:
        """Bytes with every symbolic dim at 1."""
        return self.elements() * BYTES[self.dtype]


class CacheType(Node):
    """``kv[2,128,128]``: one layer's cache: KV heads, key width, value width.

    ``kv[2,128,128,64]`` holds an indexer's keys as well, 64 wide. ``kv[1,576,0]`` holds
    latents, of which keys and values of all heads are made, and no values beside them.
    """

    kv_heads: int
    k_dim: int
    v_dim: int
    index_dim: int = 0

    @classmethod
    def of(
        cls, kv_heads: int, k_dim: int, v_dim: int, index_dim: int = 0
    ) -> "CacheType":
        """The type from its sizes in the order in which they are written."""
        return cls(kv_heads=kv_heads, k_dim=k_dim, v_dim=v_dim, index_dim=index_dim)

    def __str__(self) -> str:
        return f"kv[{','.join(map(str, self.dims))}]"

    @property
    def dims(self) -> tuple[Dim, ...]:
        """KV heads, key width, value width, and an indexer's key width if there is."""
        sizes = (self.kv_heads, self.k_dim, self.v_dim)
        return (*sizes, self.index_dim) if self.index_dim else sizes

    def elements(self) -> int:
        """Elements of keys and values, for one token of one row."""
        return self.kv_heads * (self.k_dim + self.v_dim) + self.index_dim

    def nbytes(self) -> int:
        """A cache is a reference; what is read or written is counted by the ops."""
        return 0


Type = TensorType | CacheType
