"""Attention over keys and values, or over latents of them."""

from typing import Literal

from glmc.frontends.sections import Flag, Integer, Number, Section, Text
from glmc.frontends.spec.norms import NormSpec, NormUse
from glmc.frontends.spec.positions import AlibiSpec, RopeSpec


class QueryScaleSpec(Section):
    """Queries times 1 + beta · log(1 + floor((pos + shift) / context)), or with an
    exponent (1 + (pos + shift) / context) ** exponent."""

    beta: Number | None = None
    exponent: Number | None = None
    context: Integer
    shift: Literal[0, 1] = 0
    when: Flag = True


class GateSpec(Section):
    """The slot ``attn_gate``: the context times act of it."""

    act: Literal["sigmoid", "softplus"]
    width: Text = "channel"
    reads: Literal["hidden", "latent"] = "hidden"
    """``latent``: in ``mla``, what queries are made of."""
    head_bias: Flag = False
    """Whether the slot ``gate_bias`` has a number for each head."""
    when: Flag = True


class QkNorm(Section):
    """Norms of queries and keys: over what, and on which side of rope."""

    q: NormUse
    k: NormUse
    scope: Literal["head", "heads", "full"] = "head"
    after_rope: Flag = False


class BlockIndexerSpec(Section):
    """What selects the blocks of tokens that a query may see, where ``when`` is true;
    slots ``iq`` and ``ik``."""

    heads: Integer
    dim: Integer
    block: Integer
    top_k: Integer
    local: Integer = 0
    q_norm: NormUse
    k_norm: NormUse
    when: Flag = True


class HeadExpertsSpec(Section):
    """A mixture of attention heads: ``top_k`` of ``experts`` make a token's queries,
    one for each KV head, weighed by the softmax of their logits; slots ``attn_router``,
    and ``q`` and ``o`` with an axis ``X`` before the others."""

    experts: Integer
    top_k: Integer


class AttentionSpec(Section):
    """Grouped-query attention.

    ``kv_from`` is the number of the earlier layer whose keys and values a layer attends
    to instead of its own, or null; with ``kv_equal`` values are the keys, before norm
    and rope.
    """

    kind: Literal["attention"]
    heads: Integer
    kv_heads: Integer
    head_dim: Integer
    v_dim: Integer | None = None
    v_scale: Number = 1.0
    scale: Number
    window: Integer | None = None
    mask: Literal["causal", "prefix", "full"] = "causal"
    chunk: Integer | None = None
    softcap: Number | None = None
    clip: Number | None = None
    rope: RopeSpec | None = None
    alibi: AlibiSpec | None = None
    qk_norm: QkNorm | None = None
    v_norm: NormUse | None = None
    q_scale: QueryScaleSpec | None = None
    gate: GateSpec | None = None
    indexer: BlockIndexerSpec | None = None
    experts: HeadExpertsSpec | None = None
    sub_norm: NormUse | None = None
    kv_from: Integer | None = None
    kv_equal: Flag = False


class IndexerSpec(Section):
    """What selects the tokens that an MLA query may see."""

    heads: Integer
    dim: Integer
    top_k: Integer
    style: Text
    k_norm: Text
    norm: NormSpec
    shared: Flag = False
    """Whether the layer has none and sees what the last one before it selected."""
    when: Flag = True


class MlaSpec(Section):
    """Multi-head latent attention; a ``q_rank`` of null is no query latent."""

    kind: Literal["mla"]
    heads: Integer
    nope: Integer
    v_dim: Integer
    q_rank: Integer | None = None
    kv_rank: Integer
    scale: Number
    window: Integer | None = None
    rope: RopeSpec
    q_scale: QueryScaleSpec | None = None
    q_norm: Text
    q_reads: Literal["normed", "both"] = "normed"
    kv_norm: Text
    k_norm: Text | None = None
    kv_scale: Number = 1.0
    norm: NormSpec
    """What the norms of the latents are."""
    gate: GateSpec | None = None
    indexer: IndexerSpec | None = None
