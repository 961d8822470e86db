"""A small instance of a model: every kind of block, every feature, tiny sizes.

Passes are checked by running graphs before and after on random weights. What they do
depends on the kinds of things in a model, not on how large they are, so a model of any
size can be checked in a blink.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from glmc.ir import model as m

HIDDEN, HEAD_DIM, FF, VOCAB, POSITIONS, WINDOW, TYPES = 64, 32, 96, 61, 64, 5, 2
EXPERTS, RANK, LEARNED, PART = 8, 16, 3, 16


def shrink(model: m.Model, ranks: int = 1) -> m.Model:
    """Return the model with tiny sizes and at most two layers of each kind of block,
    large enough to be dealt to so many ranks where the model is."""
    kept = sorted(layer for block in model.blocks for layer in block.layers[:2])
    renumbered = {layer: at for at, layer in enumerate(kept)}
    for block in model.blocks:  # a cache is read of the last layer of its kind instead
        last = renumbered[block.layers[:2][-1]]
        renumbered |= dict.fromkeys(block.layers[2:], last)
    encoder = model.prefix_encoder
    return model.model_copy(
        update={
            "dtype": "f32",
            "vocab": min(model.vocab, VOCAB),
            "type_vocab": model.type_vocab and TYPES,
            "hidden": HIDDEN,
            "prefix_encoder": encoder and _encoder(encoder),
            "embed": _embedding(model.embed),
            "max_positions": model.max_positions and POSITIONS,
            "blocks": tuple(
                _block(block, renumbered, Sizes(ranks, model.axes))
                for block in model.blocks
            ),
        }
    )


def _encoder(encoder: m.PrefixEncoder) -> m.PrefixEncoder:
    return encoder.model_copy(update={"length": min(encoder.length, LEARNED)})


def _embedding(embed: m.Embedding) -> m.Embedding:
    if embed.per_layer is None:
        return embed
    sizes = {"width": min(embed.per_layer.width, PART), "vocab": VOCAB}
    per_layer = embed.per_layer.model_copy(update=sizes)
    return embed.model_copy(update={"per_layer": per_layer})


@dataclass(frozen=True)
class Sizes:
    """The sizes that a model shrinks to: for so many ranks, but for what its layouts
    have axes of their own for."""

    ranks: int
    axes: Collection[str]

    def some(self, count: int, least: int) -> int:
        """Return at least ``least`` of ``count``, as many for each rank if there are as
        many."""
        few = -(-least // self.ranks) * self.ranks
        return min(count, few)

    def each(self, count: int, of: int, least: int) -> int:
        """Return the number of ``count`` that go with each of ``of``, so that together
        there are as many for each rank."""
        return min(count, max(least, self.ranks // of))


def _block(block: m.Block, renumbered: dict[int, int], sizes: Sizes) -> m.Block:
    layers = tuple(renumbered[layer] for layer in block.layers[:2])
    source = tuple(renumbered[layer] for layer in block.kv_from[:2])
    steps = tuple(
        step.model_copy(
            update={
                "op": _op(step.op, sizes),
                "aside": step.aside and _op(step.aside, sizes),
                "scale": _factor(step.scale),
                "residual_scale": _factor(step.residual_scale),
            }
        )
        for step in block.steps
    )
    where = {"layers": layers, "steps": steps, "kv_from": source, "numbers": None}
    return block.model_copy(update=where)


def _factor(given: float | tuple[float, ...]) -> float | tuple[float, ...]:
    """Keep the factors of the layers that are kept."""
    return given[:2] if isinstance(given, tuple) else given


def _op(op: m.Sublayer, sizes: Sizes) -> m.Sublayer:
    match op:
        case m.Mlp():
            return op.model_copy(update={"ff": sizes.some(op.ff, FF)})
        case m.Moe():
            return _moe(op, sizes)
        case m.Mla():
            return _mla(op, sizes)
        case m.PooledAttention():
            return _pooled(op)
        case m.Mixer():
            return _mixer(op, sizes)
        case m.Selective():
            return _selective(op)
        case m.Lru():
            heads = min(op.heads, 4)
            return op.model_copy(update={"heads": heads, "channels": 6 * heads})
        case m.TimeMix():
            return op.model_copy(update={"channels": min(op.channels, FF)})
        case m.ChannelMix():
            return op.model_copy(update={"ff": min(op.ff, FF)})
        case m.Attention():
            return _attention(op, sizes)
        case m.Branches():
            each = (b.model_copy(update={"op": _op(b.op, sizes)}) for b in op.branches)
            return op.model_copy(update={"branches": tuple(each)})
        case m.Chain():
            return _chain(op, sizes)
        case m.PerLayerInput() | m.Affine() | m.LowRank() | m.GatedConv():
            return op


def _chain(op: m.Chain, sizes: Sizes) -> m.Chain:
    """Shrink the links, of which an attention reads what was embedded, too."""
    made = []
    for link in op.links:
        inner = _op(link.op, sizes)
        if isinstance(inner, m.Attention) and inner.width:
            inner = inner.model_copy(update={"width": 2 * HIDDEN})
        made.append(link.model_copy(update={"op": inner}))
    return op.model_copy(update={"links": tuple(made)})


def _moe(op: m.Moe, few: Sizes) -> m.Moe:
    """Shrink to two experts a group, so that a group can be judged by its two best."""
    router = op.router
    groups = min(router.groups, 4)
    eligible = min(router.top_groups, groups)
    experts = max(few.some(op.experts, EXPERTS), 2 * groups)
    sizes = {"groups": groups, "top_groups": eligible}
    return op.model_copy(
        update={
            "experts": experts,
            "zero_experts": min(op.zero_experts, 2 * (experts // groups)),
            "top_k": min(op.top_k, 3, eligible * (experts // groups)),
            "ff": few.some(op.ff, FF),
            "router": router.model_copy(update=sizes),
            "shared": op.shared and _shared(op.shared, few),
            "latents": op.latents and _latents(op.latents),
        }
    )


def _latents(latents: m.ExpertLatents) -> m.ExpertLatents:
    return latents.model_copy(update={"width": min(latents.width, RANK)})


def _shared(mlp: m.Mlp, sizes: Sizes) -> m.Mlp:
    """Shrink the shared MLP, unless its layout has an axis of its own."""
    kept = _has_own(mlp.up.weight.layout, sizes.axes)
    few = -(-FF // sizes.ranks) * sizes.ranks
    return mlp if kept else mlp.model_copy(update={"ff": few})


def _has_own(layout: str | None, axes: Collection[str]) -> bool:
    return any(re.search(rf"\b{axis}\b", layout or "") for axis in axes)


def _mla(op: m.Mla, few: Sizes) -> m.Mla:
    """Shrink so that an indexer selects four of a prompt's tokens. It has many heads:
    with few, a slot may score 0 in all of them, and ties would make the best four
    ambiguous."""
    width = min(op.shared_dim, HEAD_DIM // 2)
    rope = op.rope and _rope(op.rope, width / op.rope.dim)
    indexer = op.indexer
    if isinstance(indexer, m.Indexer):
        sizes = {"heads": 16, "dim": HEAD_DIM, "top_k": min(indexer.top_k, 4)}
        indexer = indexer.model_copy(update=sizes)
    return op.model_copy(
        update={
            "heads": few.some(op.heads, 4),
            "nope": min(op.nope, HEAD_DIM // 2),
            "v_dim": min(op.v_dim, HEAD_DIM - 8),
            "q_rank": op.q_rank and min(op.q_rank, RANK + 8),
            "kv_rank": min(op.kv_rank, RANK),
            "window": op.window and min(op.window, WINDOW),
            "rope": rope,
            "shared": op.shared and width,
            "indexer": indexer,
        }
    )


def _pooled(op: m.PooledAttention) -> m.PooledAttention:
    """Shrink so that a prompt completes several windows, and an indexer selects some of
    them; it has many heads, as that of :func:`_mla`."""
    width = min(op.rope.dim, HEAD_DIM // 2)
    indexer = op.indexer
    if indexer:
        sizes = {"heads": 16, "dim": HEAD_DIM, "top_k": min(indexer.top_k, 2)}
        pool = _pool(indexer.pool)
        indexer = indexer.model_copy(update={**sizes, "pool": pool})
    return op.model_copy(
        update={
            "heads": 4,
            "head_dim": HEAD_DIM,
            "groups": 2,
            "q_rank": min(op.q_rank, RANK + 8),
            "o_rank": min(op.o_rank, RANK),
            "window": min(op.window, WINDOW),
            "rope": _rope(op.rope, width / op.rope.dim),
            "pool": op.pool and _pool(op.pool),
            "indexer": indexer,
        }
    )


def _pool(pool: m.Pool) -> m.Pool:
    return pool.model_copy(update={"every": min(pool.every, 3)})


def _mixer(op: m.Mixer, few: Sizes) -> m.Mixer:
    """Two heads of values at most for each head of keys, so that one is shared."""
    groups = few.some(op.groups, 2)
    shared = few.each(op.heads // op.groups, groups, 2)
    sizes = {"groups": groups, "heads": groups * shared}
    widths = {"key_dim": min(op.key_dim, 12), "value_dim": min(op.value_dim, 10)}
    steady = op.steady
    if steady:
        steady = steady.model_copy(update={"scale": _factor(steady.scale)})
    return op.model_copy(update={**sizes, **widths, "steady": steady})


def _selective(op: m.Selective) -> m.Selective:
    channels = op.heads * max(1, min(op.channels, FF) // op.heads)
    sizes = {"channels": channels, "state": min(op.state, 12)}
    return op.model_copy(update={**sizes, "rank": min(op.rank, RANK)})


def _attention(op: m.Attention, few: Sizes) -> m.Attention:
    """Shrink heads, unless the layout divides them by axes of its own."""
    kept = _has_own(op.q.weight.layout, few.axes)
    kv_heads = op.kv_heads if kept else few.some(op.kv_heads, 2)
    group = few.each(op.heads // op.kv_heads, kv_heads, 4)
    width = min(op.head_dim, HEAD_DIM)
    return op.model_copy(
        update={
            "heads": kv_heads * group,
            "kv_heads": kv_heads,
            "head_dim": width,
            "v_dim": op.v_dim and min(op.v_dim, HEAD_DIM - 8),
            "indexer": op.indexer and _block_indexer(op.indexer, kv_heads),
            "experts": op.experts and _head_experts(op.experts, group),
            "window": op.window and min(op.window, WINDOW),
            "chunk": op.chunk and min(op.chunk, WINDOW),
            "rope": op.rope and _rope(op.rope, width / op.head_dim),
        }
    )


def _head_experts(experts: m.HeadExperts, group: int) -> m.HeadExperts:
    sizes = {"experts": min(experts.experts, EXPERTS), "top_k": group}
    return experts.model_copy(update=sizes)


def _block_indexer(indexer: m.BlockIndexer, kv_heads: int) -> m.BlockIndexer:
    """Shrink to blocks of two tokens, of which two are seen: fewer than a prompt
    holds."""
    sizes = {"heads": kv_heads, "dim": HEAD_DIM, "block": 2, "top_k": 2}
    return indexer.model_copy(update={**sizes, "local": min(indexer.local, 1)})


def _rope(rope: m.Rope, ratio: float) -> m.Rope:
    pairs = 2 * rope.sections
    dim = max(pairs, pairs * round(rope.dim * ratio / pairs))
    scaling = rope.scaling
    if isinstance(scaling, m.LongRopeScaling):
        half = dim // 2
        factors = {
            "short_factor": scaling.short_factor[:half],
            "long_factor": scaling.long_factor[:half],
        }
        scaling = scaling.model_copy(update=factors)
    if isinstance(scaling, m.ProportionalScaling):
        turning = max(1, round(scaling.turning * dim / rope.dim))
        scaling = scaling.model_copy(update={"turning": turning})
    return rope.model_copy(update={"dim": dim, "scaling": scaling})
