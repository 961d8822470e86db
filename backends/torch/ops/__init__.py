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
from glmc.backends.torch.ops.blocks import block_attention, block_select
from glmc.backends.torch.ops.elementwise import (
    act_mul,
    activation,
    add,
    clamp,
    clamped_glu,
    concat,
    embedding,
    first_token,
    gate,
    heads,
    linear,
    mul,
    normalised_linear,
    scale,
    scale_by,
    soft_cap,
    split,
    xielu,
    zeros_like,
)
from glmc.backends.torch.ops.latent import latent_attention, latent_write
from glmc.backends.torch.ops.moe import moe_experts, moe_router, scale_experts
from glmc.backends.torch.ops.norms import (
    add_layer_norm,
    add_rms_norm,
    layer_norm,
    layer_norm_heads,
    layer_normalize,
    rms_norm,
    rms_normalize,
)
from glmc.backends.torch.ops.positions import (
    add_table,
    alibi_slopes,
    query_scale,
    scale_heads,
    sinusoids,
)
from glmc.backends.torch.ops.products import (
    layer_norm_linear,
    linear_act,
    linear_add,
    rms_norm_linear,
)
from glmc.backends.torch.ops.quantized import quantized_embedding, quantized_linear
from glmc.backends.torch.ops.rope import (
    rope,
    rope_table,
    rope_table_dynamic,
    rope_table_linear,
    rope_table_llama3,
    rope_table_longrope,
    rope_table_proportional,
    rope_table_sections,
    rope_table_yarn,
)
from glmc.backends.torch.ops.sparse import index_select, index_write, no_selection

__all__ = [
    "act_mul",
    "activation",
    "add",
    "add_layer_norm",
    "add_rms_norm",
    "add_table",
    "alibi_slopes",
    "attention",
    "block_attention",
    "block_select",
    "clamp",
    "clamped_glu",
    "concat",
    "embedding",
    "first_token",
    "full_attention",
    "gate",
    "heads",
    "index_select",
    "index_write",
    "kv_write",
    "latent_attention",
    "latent_write",
    "layer_norm",
    "layer_norm_heads",
    "layer_norm_linear",
    "layer_normalize",
    "linear",
    "linear_act",
    "linear_add",
    "moe_experts",
    "moe_router",
    "mul",
    "no_selection",
    "normalised_linear",
    "qkv_attention",
    "quantized_embedding",
    "quantized_linear",
    "query_scale",
    "rms_norm",
    "rms_norm_linear",
    "rms_normalize",
    "rope",
    "rope_table",
    "rope_table_dynamic",
    "rope_table_linear",
    "rope_table_llama3",
    "rope_table_longrope",
    "rope_table_proportional",
    "rope_table_sections",
    "rope_table_yarn",
    "scale",
    "scale_by",
    "scale_experts",
    "scale_heads",
    "sinusoids",
    "soft_cap",
    "split",
    "xielu",
    "zeros_like",
]
