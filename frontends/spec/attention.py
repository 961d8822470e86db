"""Attention over keys and values, or over latents of them."""

from glmc.frontends.language.derived import Makes, Slot
from glmc.frontends.language.kinds import Flag, Integer
from glmc.frontends.language.sections import Section
from glmc.frontends.spec.norms import NormSpec, NormUse
from glmc.frontends.spec.positions import RopeSpec
from glmc.ir import model as m


class QueryScaleSpec(Section, makes=Makes(m.QueryScale)):
    """Queries times 1 + beta · log(1 + floor((pos + shift) / context)), or with an
    exponent (1 + (pos + shift) / context) ** exponent."""

    when: Flag = True


class DistancesSpec(Section, makes=Makes(m.Distances, {"weight": "distances"})):
    """Numbers of each head by the distance of query and key: slot ``distances``, a
    table of so many ``rows`` for all layers."""


_LAMBDA = {name: f"lambda_{name}" for name in ("q1", "k1", "q2", "k2")}


class DifferenceSpec(Section, makes=Makes(m.Difference, _LAMBDA)):
    """Differential attention: slots ``lambda_q1``, ``lambda_k1``, ``lambda_q2`` and
    ``lambda_k2``, a number for each channel of a head."""


_GATE_SLOTS = {
    "projection": "attn_gate",
    "head_bias": Slot("gate_bias", when="head_bias"),
}


class GateSpec(Section, makes=Makes(m.OutputGate, slots=_GATE_SLOTS)):
    """A gate of the context: the context times act of the slot ``attn_gate``."""

    head_bias: Flag = False
    """True where the slot ``gate_bias`` has a number for each head."""
    when: Flag = True


_QK_NORM = Makes(
    m.Attention,
    only=("q_norm", "k_norm", "qk_norm_scope", "qk_norm_after_rope"),
    renamed={
        "q_norm": "q",
        "k_norm": "k",
        "qk_norm_scope": "scope",
        "qk_norm_after_rope": "after_rope",
    },
)


class QkNorm(Section, makes=_QK_NORM):
    """Norms of queries and keys: their scope, and their side of rope."""

    q: NormUse
    k: NormUse


class BlockIndexerSpec(Section, makes=Makes(m.BlockIndexer, {"q": "iq", "k": "ik"})):
    """An indexer that selects the blocks of tokens a query may see, where ``when`` is
    true; slots ``iq`` and ``ik``."""

    when: Flag = True


class HeadExpertsSpec(Section, makes=Makes(m.HeadExperts, left=("router",))):
    """A mixture of attention heads: ``top_k`` of ``experts`` make a token's queries,
    one for each KV head, weighed by the softmax of their logits; slots ``attn_router``,
    and ``q`` and ``o`` with an axis ``X`` before the others."""


_ATTENTION = Makes(m.Attention, left=_QK_NORM.only or ())


class AttentionSpec(Section, makes=_ATTENTION):
    """Grouped-query attention.

    ``kv_from`` is the number of the earlier layer whose keys and values a layer attends
    to instead of its own, or null; with ``kv_equal`` values are the keys, before norm
    and rope.
    """

    rope: RopeSpec | None = None
    qk_norm: QkNorm | None = None
    v_norm: NormUse | None = None
    experts: HeadExpertsSpec | None = None
    kv_from: Integer | None = None
    kv_equal: Flag = False


_INDEXER = Makes(m.Indexer, {"q": "iq", "k": "ik", "weights": "iweights"}, norms="norm")


class IndexerSpec(Section, makes=_INDEXER):
    """An indexer that selects the tokens an MLA query may see."""

    norm: NormSpec
    shared: Flag = False
    """True where the layer has none and sees what the last one before it selected."""
    when: Flag = True


_QUERY_LATENT = {"q_a": Slot("q_a", unless_null="q_rank")}
_MLA = Makes(m.Mla, _QUERY_LATENT, left=("shared",), norms="norm")


class MlaSpec(Section, makes=_MLA):
    """Multi-head latent attention; a ``q_rank`` of null is no query latent."""

    q_norm: NormUse
    norm: NormSpec
    """The kind of the norms of the latents."""
    rope: RopeSpec
    """With ``when`` false nothing turns; ``dim`` is the width of the shared key."""
    indexer: IndexerSpec | None = None
