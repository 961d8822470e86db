"""Attention with caches of several rates; streams that hyper-connections mix."""

from glmc.frontends.language.derived import Makes
from glmc.frontends.language.kinds import Flag, Text
from glmc.frontends.language.sections import Section
from glmc.frontends.spec.positions import RopeSpec
from glmc.ir import model as m

_POOL = Makes(
    m.Pool, {"values": "pool_values", "gates": "pool_gates", "places": "pool_places"}
)
_INDEX_POOL = Makes(
    m.Pool, {"values": "ipool_values", "gates": "ipool_gates", "places": "ipool_places"}
)


class PoolSpec(Section, makes=_POOL, unless_null="every"):
    """Entries that stand for ``every`` tokens, null for none: slots ``pool_values``,
    ``pool_gates`` and ``pool_places``."""


class IndexPoolSpec(Section, makes=_INDEX_POOL):
    """The entries of an indexer: slots ``ipool_values``, ``ipool_gates`` and
    ``ipool_places``."""


class PoolIndexerSpec(
    Section, makes=Makes(m.PoolIndexer, {"q": "iq", "weights": "iweights"})
):
    """An indexer that selects the entries a query may see, where ``when`` is true;
    slots ``iq`` and ``iweights``."""

    pool: IndexPoolSpec
    when: Flag = True


class PooledAttentionSpec(Section, makes=Makes(m.PooledAttention)):
    """Attention to a window of vectors that are key and value at once, and to entries
    that stand for several tokens; slots ``q_a``, ``q``, ``kv``, ``o_a``, ``o``,
    ``sinks``."""

    rope: RopeSpec
    pool: PoolSpec | None = None
    indexer: PoolIndexerSpec | None = None


_HYPER = Makes(m.HyperStreams, left=("head",))


class HistorySpec(Section):
    """Snapshots of the residual stream, of which sublayers read mixtures; ``head``
    begins the names of ``norm.weight`` and ``proj.weight`` before the final norm."""

    head: Text


class HyperSpec(Section, makes=_HYPER):
    """Residual streams that hyper-connections mix; ``head`` begins the names of the
    maps ``fn``, ``base`` and ``scale`` before the head, null for the mean."""

    head: Text | None = None
