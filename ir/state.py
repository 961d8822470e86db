"""States: what a layer keeps from one call to the next, declared by its block.

A block declares each state by name::

    state %kv: kv[2,128,128] per token
    state %ssm: f32[64,64,128] per row

A state is threaded through the graph like any value. An op that writes it may return
the state after the write, under a new name and of the same type, and what reads it
afterwards reads that name: order is a data dependency.
"""

import math
from typing import ClassVar, Literal

from glmc.ir.node import Node
from glmc.ir.placement import REPLICATED, Placement

Access = Literal["read", "write"]
"""The access of an op to a state that it is given; writing includes reading."""


KEPT = ("f32", "f16", "bf16")
"""The dtypes a state may have of its own."""


class StateType(Node):
    """The type of a state: a tensor for each token, or for each row of a batch.

    ``dtype`` None stands for that of the model, whatever it is loaded in. The axis of a
    ``placement`` is one of the sizes in brackets.
    """

    per: ClassVar[Literal["token", "row"]]
    dtype: str | None = None
    placement: Placement = REPLICATED

    @property
    def dims(self) -> tuple[int, ...]:
        """The sizes that are written in brackets."""
        raise NotImplementedError

    def elements(self) -> int:
        """Count the numbers that are kept for one token, or for one row."""
        return math.prod(self.dims)

    def __str__(self) -> str:
        sizes = ",".join(map(str, self.dims))
        return f"{self.dtype or ''}[{sizes}] per {self.per}{self.placement.suffix}"


class KvType(StateType):
    """``kv[2,128,128] per token``: heads, channels of a key, channels of a value."""

    per = "token"
    kv_heads: int
    k_dim: int
    v_dim: int

    @property
    def dims(self) -> tuple[int, ...]:
        return self.kv_heads, self.k_dim, self.v_dim

    def elements(self) -> int:
        """Count the numbers in the keys and values of one token."""
        return self.kv_heads * (self.k_dim + self.v_dim)

    def __str__(self) -> str:
        return f"kv{super().__str__()}"


class TokenType(StateType):
    """``[576] per token``: one tensor for each token, such as a latent; ``[512] per 4
    tokens``: one for so many, of a row's own tokens, counted from its first."""

    per = "token"
    sizes: tuple[int, ...]
    every: int = 1

    @property
    def dims(self) -> tuple[int, ...]:
        return self.sizes

    def elements(self) -> int:
        """Count the numbers that are kept for one token, rounded up."""
        return -(-super().elements() // self.every)

    def __str__(self) -> str:
        text = super().__str__()
        if self.every == 1:
            return text
        return f"{text.removesuffix('token')}{self.every} tokens"


class RowType(StateType):
    """``f32[64,64,128] per row``: a tensor of fixed size for each sequence.

    It begins as zeros and has no history: what a token does to it cannot be undone.
    """

    per = "row"
    sizes: tuple[int, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        return self.sizes


class State(Node):
    """A state that a block declares, under the name its ops know it by."""

    name: str
    type: StateType
    owners: tuple[int, ...] = ()
    """For each layer of the block the earlier one whose state of this name it reads;
    empty where every layer has its own."""
