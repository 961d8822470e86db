"""A small instance of a model: every kind of block, every feature, tiny sizes.

Passes are checked by running graphs before and after on random weights. What they do
depends on the kinds of things in a model, not on how large they are, so a model of any
size can be checked in a blink.
"""

from glmc.ir import model as m

HIDDEN, HEAD_DIM, FF, VOCAB, POSITIONS, WINDOW, TYPES = 64, 32, 96, 61, 64, 5, 2
LEARNED = 3


def shrink(model: m.Model) -> m.Model:
    """The model with tiny sizes and at most two layers of each kind of block."""
    kept = sorted(layer for block in model.blocks for layer in block.layers[:2])
    renumbered = {layer: at for at, layer in enumerate(kept)}
    encoder = model.prefix_encoder
    return model.model_copy(
        update={
            "dtype": "f32",
            "vocab": min(model.vocab, VOCAB),
            "type_vocab": model.type_vocab and TYPES,
            "hidden": HIDDEN,
            "prefix_encoder": encoder and _encoder(encoder),
            "max_positions": model.max_positions and POSITIONS,
            "blocks": tuple(_block(block, renumbered) for block in model.blocks),
        }
    )


def _encoder(encoder: m.PrefixEncoder) -> m.PrefixEncoder:
    return encoder.model_copy(update={"length": min(encoder.length, LEARNED)})


def _block(block: m.Block, renumbered: dict[int, int]) -> m.Block:
    layers = tuple(renumbered[n] for n in block.layers if n in renumbered)
    steps = tuple(step.model_copy(update={"op": _op(step.op)}) for step in block.steps)
    return block.model_copy(update={"layers": layers, "steps": steps})


def _op(op: m.Attention | m.Mlp) -> m.Attention | m.Mlp:
    if isinstance(op, m.Mlp):
        return op.model_copy(update={"ff": min(op.ff, FF)})
    kv_heads = min(op.kv_heads, 2)
    group = min(op.heads // op.kv_heads, 4)
    width = min(op.head_dim, HEAD_DIM)
    return op.model_copy(
        update={
            "heads": kv_heads * group,
            "kv_heads": kv_heads,
            "head_dim": width,
            "window": op.window and min(op.window, WINDOW),
            "rope": op.rope and _rope(op.rope, width / op.head_dim),
        }
    )


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
    return rope.model_copy(update={"dim": dim, "scaling": scaling})
