"""The place of every parameter of the model in the published checkpoint.

A string is a tensor's name; ``{i}`` in it is the layer's index.
"""

from .recipes import Bind, cat, tensor

#: Checkpoints saved without the language-model head leave this out of their names.
OPTIONAL_PREFIX = "model."

WEIGHTS = (
    Bind("embed_tokens", "model.embed_tokens.weight", shape=(128256, 8192)),
    Bind("norm", "model.norm.weight", shape=(8192,)),
    Bind("lm_head", "lm_head.weight", shape=(128256, 8192)),
    Bind(
        "layers.{i}.input_layernorm",
        "model.layers.{i}.input_layernorm.weight",
        shape=(8192,),
        layers=range(80),
    ),
    Bind(
        "layers.{i}.qkv",
        cat(
            tensor("model.layers.{i}.self_attn.q_proj.weight", 8192, 8192),
            tensor("model.layers.{i}.self_attn.k_proj.weight", 1024, 8192),
            tensor("model.layers.{i}.self_attn.v_proj.weight", 1024, 8192),
        ),
        shape=(10240, 8192),
        layers=range(80),
    ),
    Bind(
        "layers.{i}.o_proj",
        "model.layers.{i}.self_attn.o_proj.weight",
        shape=(8192, 8192),
        layers=range(80),
    ),
    Bind(
        "layers.{i}.post_attention_layernorm",
        "model.layers.{i}.post_attention_layernorm.weight",
        shape=(8192,),
        layers=range(80),
    ),
    Bind(
        "layers.{i}.gate_up",
        cat(
            tensor("model.layers.{i}.mlp.gate_proj.weight", 28672, 8192),
            tensor("model.layers.{i}.mlp.up_proj.weight", 28672, 8192),
        ),
        shape=(57344, 8192),
        layers=range(80),
    ),
    Bind(
        "layers.{i}.down_proj",
        "model.layers.{i}.mlp.down_proj.weight",
        shape=(8192, 28672),
        layers=range(80),
    ),
)

#: Tensors that a checkpoint may hold and this model does not use, and why.
WAIVED = (("*rotary_emb.inv_freq", "a buffer that is computed from the config"),)
