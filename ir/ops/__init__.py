"""The ops of the Graph level. Importing this package registers all of them."""

from glmc.ir.ops.attention import Attention, FullAttention, KvWrite, QkvAttention
from glmc.ir.ops.elementwise import (
    Activation,
    ActMul,
    Add,
    Embedding,
    FirstToken,
    Heads,
    JoinHeads,
    Linear,
    Mul,
    Scale,
    Split,
    ZerosLike,
)
from glmc.ir.ops.moe import MoeExperts, MoeRouter
from glmc.ir.ops.norms import AddLayerNorm, AddRmsNorm, LayerNorm, RmsNorm
from glmc.ir.ops.quantized import QuantizedEmbedding, QuantizedLinear
from glmc.ir.ops.rope import (
    Rope,
    RopeTable,
    RopeTableDynamic,
    RopeTableLinear,
    RopeTableLlama3,
    RopeTableLongRope,
    RopeTableSections,
    RopeTableYarn,
)
from glmc.ir.ops.sparse import IndexSelect, IndexWrite, NoSelection, SparseAttention

__all__ = [
    "ActMul",
    "Activation",
    "Add",
    "AddLayerNorm",
    "AddRmsNorm",
    "Attention",
    "Embedding",
    "FirstToken",
    "FullAttention",
    "Heads",
    "IndexSelect",
    "IndexWrite",
    "JoinHeads",
    "KvWrite",
    "LayerNorm",
    "Linear",
    "MoeExperts",
    "MoeRouter",
    "Mul",
    "NoSelection",
    "QkvAttention",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "RmsNorm",
    "Rope",
    "RopeTable",
    "RopeTableDynamic",
    "RopeTableLinear",
    "RopeTableLlama3",
    "RopeTableLongRope",
    "RopeTableSections",
    "RopeTableYarn",
    "Scale",
    "SparseAttention",
    "Split",
    "ZerosLike",
]
