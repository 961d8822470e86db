"""The Model level: what a person says about a model, before it becomes a graph.

A :class:`Model` is what a frontend produces and what :mod:`glmc.ir.lower` consumes.
Weights are named as they lie in the checkpoint; :class:`Weight` says which part of
which tensor a slot is, in the axis notation of :mod:`glmc.ir.layout`.
"""

from glmc.ir.model.model import (
    Block,
    DType,
    Embedding,
    GlmPositions,
    Head,
    Model,
    OldName,
    Pooler,
    PrefixEncoder,
    Step,
    Tokens,
    Transform,
    Waiver,
)
from glmc.ir.model.rope import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    RopeScaling,
    RopeStyle,
    YarnScaling,
)
from glmc.ir.model.sublayers import (
    ActivationName,
    Attention,
    Indexer,
    Mla,
    Mlp,
    Moe,
    Router,
    Sublayer,
)
from glmc.ir.model.weights import (
    BlockQuantized,
    Norm,
    Projection,
    RowQuantized,
    Storage,
    Weight,
)

__all__ = [
    "ActivationName",
    "Attention",
    "Block",
    "BlockQuantized",
    "DType",
    "DynamicScaling",
    "Embedding",
    "GlmPositions",
    "Head",
    "Indexer",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "Mla",
    "Mlp",
    "Model",
    "Moe",
    "Norm",
    "OldName",
    "Pooler",
    "PrefixEncoder",
    "Projection",
    "Rope",
    "RopeScaling",
    "RopeStyle",
    "Router",
    "RowQuantized",
    "Step",
    "Storage",
    "Sublayer",
    "Tokens",
    "Transform",
    "Waiver",
    "Weight",
    "YarnScaling",
]
