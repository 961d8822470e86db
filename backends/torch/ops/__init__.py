"""Reference implementations in plain torch, one function for each op of the IR.

They execute the IR (`glmc compile --verify-passes`) and are copied, function by
function, into the `reference.py` of a build (`glmc.backends.torch.select`).
"""

from glmc.backends.torch.ops.attention import (
    attention,
    full_attention,
    kv_write,
    qkv_attention,
)
from glmc.backends.torch.ops.elementwise import (
    act_mul,
    activation,
    add,
    embedding,
    first_token,
    heads,
    join_heads,
    linear,
    mul,
    scale,
    split,
    zeros_like,
)
from glmc.backends.torch.ops.moe import moe_experts, moe_router
from glmc.backends.torch.ops.norms import (
    add_layer_norm,
    add_rms_norm,
    layer_norm,
    rms_norm,
)
from glmc.backends.torch.ops.quantized import quantized_embedding, quantized_linear
from glmc.backends.torch.ops.rope import (
    rope,
    rope_table,
    rope_table_dynamic,
    rope_table_linear,
    rope_table_llama3,
    rope_table_longrope,
    rope_table_sections,
    rope_table_yarn,
)
from glmc.backends.torch.ops.sparse import (
    index_select,
    index_write,
    no_selection,
    sparse_attention,
)

__all__ = [
    "act_mul",
    "activation",
    "add",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "embedding",
    "first_token",
    "full_attention",
    "heads",
    "index_select",
    "index_write",
    "join_heads",
    "kv_write",
    "layer_norm",
    "linear",
    "moe_experts",
    "moe_router",
    "mul",
    "no_selection",
    "qkv_attention",
    "quantized_embedding",
    "quantized_linear",
    "rms_norm",
    "rope",
    "rope_table",
    "rope_table_dynamic",
    "rope_table_linear",
    "rope_table_llama3",
    "rope_table_longrope",
    "rope_table_sections",
    "rope_table_yarn",
    "scale",
    "sparse_attention",
    "split",
    "zeros_like",
]
