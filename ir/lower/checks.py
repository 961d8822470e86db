"""Refuse models that no program can be made of, before they are lowered."""

from typing import Any

from glmc.ir import model as m
from glmc.ir.errors import ModelShapeError


def check(model: m.Model) -> None:
    """Check that the parts of a model go together, before it is lowered.

    Raises:
        ModelShapeError: when its parts contradict one another.
    """
    _check_masks(model)
    _check_streams(model)
    _check_keys(model)
    _check_sources(model)
    _check_halves(model)
    _check_decays(model)
    _check_chains(model)


def _check_masks(model: m.Model) -> None:
    """Refuse mixtures of masks, windows and prefix encoders that one cache cannot
    serve."""
    found = [op for block in model.blocks for op in block.sublayers]
    full = [op for op in found if isinstance(op, m.Attention) and op.mask == "full"]
    if full and not model.is_encoder:
        raise ModelShapeError(
            f"{model.name} mixes full and causal attention, and only one of them has a "
            "cache; give every attention of the spec the same mask."
        )
    for name in ("softcap", "chunk", "alibi", "sinks"):
        if any(getattr(op, name) is not None for op in full):
            raise ModelShapeError(
                f"{model.name} has {name} in attention with the mask full, which is not"
                f" supported; leave out {name}, or give attention another mask."
            )
    if model.embed.padding is not None and not model.is_encoder:
        raise ModelShapeError(
            f"{model.name} counts positions by the id of padding, which only encoders "
            "do; leave out the embedding's padding, or give attention the mask full."
        )
    counted = (op for op in found if isinstance(op, m.Attention) and op.distances)
    if any(op.mask != "full" for op in counted):
        raise ModelShapeError(
            f"{model.name} has numbers by distance in attention with a cache, which is"
            " not supported; leave out distances, or give it the mask full."
        )
    if model.prefix_encoder and any(block.kv_from for block in model.blocks):
        raise ModelShapeError(
            f"{model.name} has a prefix encoder, which makes keys and values for every "
            "layer, and layers that read those of another; leave out one of them."
        )
    if model.prefix_encoder and any(isinstance(op, m.Mla) for op in found):
        raise ModelShapeError(
            f"{model.name} has a prefix encoder, which makes keys and values of heads, "
            "and latent attention, which has none of its own; leave out one of them."
        )


def _check_streams(model: m.Model) -> None:
    """Refuse blocks that do not fit the number of residual streams."""
    several = {block.altup is not None for block in model.blocks}
    if several != {isinstance(model.streams, m.Streams)}:
        raise ModelShapeError(
            f"{model.name} has several residual streams and blocks for one, or one and"
            " blocks for several; give streams to the model and altup to its blocks."
        )
    _check_steps(model)


def _check_steps(model: m.Model) -> None:
    """Refuse steps that do not go with the model's streams."""
    hyper = isinstance(model.streams, m.HyperStreams)
    history = isinstance(model.streams, m.ResidualHistory)
    for step in (step for block in model.blocks for step in block.steps):
        if hyper != (step.hyper is not None):
            raise ModelShapeError(
                f"{model.name} has hyper-connections in some of its steps, or has"
                " no streams for them; give streams to the model and hyper to every"
                " step of its blocks."
            )
        if history != (step.mix is not None):
            raise ModelShapeError(
                f"{model.name} has mixtures of the residual stream's snapshots in some"
                " of its steps, or has no snapshots; give history to the model and mix"
                " to every step of its blocks."
            )
        if step.snapshot and not history:
            raise ModelShapeError(
                f"{model.name} takes snapshots of its residual stream, which nothing"
                " reads; leave out snapshot, or give the model a history."
            )
        if (hyper or history) and step != step.model_copy(update=_PLAIN):
            told = ", ".join(_PLAIN)
            raise ModelShapeError(
                f"{model.name} has steps that are added to one stream as it is, and"
                f" others that mix several; leave out what says how ({told})."
            )


_PLAIN: dict[str, Any] = {
    "after": None,
    "residual": "stream",
    "residual_scale": 1.0,
    "parallel": False,
    "shortcut": None,
    "others": False,
}
"""The fields of a step that say how it is added to a single stream, as they are where
there are several."""


def _check_halves(model: m.Model) -> None:
    """Refuse differential attention that its heads, or other options, do not fit."""
    ops = [op for block in model.blocks for op in block.sublayers]
    for op in ops:
        if not isinstance(op, m.Attention) or not op.difference:
            continue
        if op.kv_heads % 2:
            raise ModelShapeError(
                f"{model.name} has {op.kv_heads} KV heads, which do not make two halves"
                " for differential attention; give it an even number."
            )
        if op.mask == "full" or op.v_dim or not op.v or op.indexer:
            raise ModelShapeError(
                f"{model.name} has differential attention with a full mask, an indexer,"
                " or values of another width than its keys or of another layer, which"
                " is not supported; leave one of them out."
            )


def _check_decays(model: m.Model) -> None:
    """Refuse scans whose states decay in several ways, or in none."""
    ops = [op for block in model.blocks for op in block.sublayers]
    for op in (op for op in ops if isinstance(op, m.Mixer)):
        ways = [op.decay, op.steady, op.memory]
        if ways.count(None) != len(ways) - 1:
            told = "several decays" if any(ways) else "no decay"
            raise ModelShapeError(
                f"{model.name} has a scan with {told} of its state; give it one"
                " of decay, steady and memory."
            )


def _check_chains(model: m.Model) -> None:
    """Refuse chains whose attention reads another width than it is given."""
    for block in model.blocks:
        for chain in block.chains:
            given = model.hidden * (2 if chain.beside else 1)
            for link in chain.links:
                read = isinstance(link.op, m.Attention) and (
                    link.op.width or model.hidden
                )
                if read and read != given:
                    raise ModelShapeError(
                        f"{model.name}: an attention of {block.name} reads {read}"
                        f" channels and is given {given}; give it the width that it"
                        " reads, or the chain that it is in beside."
                    )
                given = model.hidden


def _check_keys(model: m.Model) -> None:
    """Refuse attention that has queries and nothing that they are compared with."""
    for block in model.blocks:
        for op in (a for a in block.sublayers if isinstance(a, m.Attention)):
            if op.k is None and (op.mask == "full" or op.v is not None):
                raise ModelShapeError(
                    f"{model.name}: an attention of {block.name} has no keys (k) of its"
                    " own, though it has values or no cache to read any from; give it"
                    " k, or leave out v and read those of another layer (kv_from)."
                )


def _check_sources(model: m.Model) -> None:
    """Refuse layers without keys and values that no earlier layer has for them."""
    kinds = {layer: block for block in model.blocks for layer in block.layers}
    for block in model.blocks:
        bare = [a for a in _attentions(block) if not (a.k or a.v)]
        if len(bare) != bool(block.kv_from):
            told = "says whose they read" if block.kv_from else "is not given"
            raise ModelShapeError(
                f"{model.name}: {len(bare)} attentions of {block.name} have no keys and"
                f" values of their own, and kv_from {told}; one such attention goes"
                " with kv_from, so give k and v to the others, or leave it out."
            )
        for source in block.kv_from:
            of = kinds.get(source)
            own = [a for a in _attentions(of) if a.k or a.v] if of else []
            if len(own) != 1:
                raise ModelShapeError(
                    f"{model.name}: {block.name} reads the keys and values of layer"
                    f" {source} (kv_from), which has {len(own)} attentions with some;"
                    " read those of a layer with one."
                )


def _attentions(block: m.Block) -> list[m.Attention]:
    """Return the attentions of a block that read cached keys and values."""
    found = block.sublayers
    return [op for op in found if isinstance(op, m.Attention) and op.mask != "full"]


def only_attention(model: m.Model, block: m.Block) -> m.Attention:
    """Return the one attention of a block, for which a prefix encoder makes keys and
    values.

    Raises:
        ModelShapeError: when the block has none or several.
    """
    found = _attentions(block)
    if len(found) != 1:
        raise ModelShapeError(
            f"{model.name} has a prefix encoder, which makes keys and values for one"
            f" attention in each layer, and {block.name} has {len(found)}; leave out"
            " the encoder, or give every layer one attention."
        )
    return found[0]
