"""Attention with caches of several rates: single tokens, and entries that stand for
several."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from glmc.ir.model.rope import Rope
from glmc.ir.model.weights import Norm, Projection, Weight
from glmc.ir.node import Node


class Pool(Node):
    """Entries that stand for ``every`` tokens, counted from a row's first.

    An entry is norm(Σ softmax(gates(x) + places) · values(x)), for each channel over
    the tokens of its window, then turned by the position of the first of them.
    """

    every: Annotated[int, Field(ge=2)]
    """Axis ``Ev``."""
    overlap: bool = False
    """A window also has the tokens of the one before, by channels of their own: values,
    gates and places are twice as wide (axis ``Dp``), the first half for them."""
    values: Projection
    gates: Projection
    places: Weight
    """A number for each place in a window and each channel of the gates."""
    norm: Norm


class PoolIndexer(Node):
    """An indexer that selects the entries a query may see, by entries of its own.

    An entry's score is the sum over ``heads`` of weight · relu(q · k · dim^-0.5), with
    weights ``linear(x) · heads^-0.5``; the ``top_k`` highest are seen. Queries come
    from the query latent; the last channels of queries and keys turn like the
    attention's.
    """

    heads: PositiveInt
    dim: PositiveInt
    top_k: PositiveInt
    pool: Pool
    q: Projection
    weights: Weight


class PooledAttention(Node):
    """Attention to the last ``window`` tokens, and to entries that stand for several.

    Of a token one vector is kept, which is key and value of all heads at once. The last
    ``rope.dim`` channels of queries and of these vectors turn, and those of the context
    turn back. The context of each of ``groups`` of heads goes through a matrix of its
    own, ``o_rank`` wide, before the output projection.
    """

    kind: Literal["pooled_attention"] = "pooled_attention"
    heads: PositiveInt
    head_dim: PositiveInt
    scale: PositiveFloat
    window: PositiveInt
    rope: Rope
    q_rank: PositiveInt
    q_a: Projection
    q_norm: Norm
    q: Projection
    head_norm: Norm | None = None
    """Norm of each query head, before it turns."""
    kv: Projection
    kv_norm: Norm
    sinks: Weight | None = None
    """A logit of each head that takes part in the softmax and has no value."""
    groups: PositiveInt
    """Axis ``Go``; the channels that each of them reads are axis ``Gi``."""
    o_rank: PositiveInt
    """Axis ``Lo``."""
    o_a: Weight
    o: Projection
    pool: Pool | None = None
    indexer: PoolIndexer | None = None
    """None: a query sees all complete entries."""
