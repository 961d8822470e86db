"""The place of every parameter of the model in the published checkpoint.

A string is a tensor's name; ``{i}`` in it is the layer's index.
"""

from .recipes import Bind

#: Checkpoints saved without the language-model head leave this out of their names.
OPTIONAL_PREFIX = "transformer."

WEIGHTS = (
    Bind(
        "word_embeddings",
        "transformer.embedding.word_embeddings.weight",
        shape=(65024, 4096),
    ),
    Bind(
        "final_layernorm", "transformer.encoder.final_layernorm.weight", shape=(4096,)
    ),
    Bind("output_layer", "transformer.output_layer.weight", shape=(65024, 4096)),
    Bind(
        "layers.{i}.input_layernorm",
        "transformer.encoder.layers.{i}.input_layernorm.weight",
        shape=(4096,),
        layers=range(28),
    ),
    Bind(
        "layers.{i}.qkv",
        "transformer.encoder.layers.{i}.self_attention.query_key_value.weight",
        shape=(4608, 4096),
        layers=range(28),
    ),
    Bind(
        "layers.{i}.qkv_bias",
        "transformer.encoder.layers.{i}.self_attention.query_key_value.bias",
        shape=(4608,),
        layers=range(28),
    ),
    Bind(
        "layers.{i}.dense",
        "transformer.encoder.layers.{i}.self_attention.dense.weight",
        shape=(4096, 4096),
        layers=range(28),
    ),
    Bind(
        "layers.{i}.post_attention_layernorm",
        "transformer.encoder.layers.{i}.post_attention_layernorm.weight",
        shape=(4096,),
        layers=range(28),
    ),
    Bind(
        "layers.{i}.gate_up",
        "transformer.encoder.layers.{i}.mlp.dense_h_to_4h.weight",
        shape=(27392, 4096),
        layers=range(28),
    ),
    Bind(
        "layers.{i}.dense_4h_to_h",
        "transformer.encoder.layers.{i}.mlp.dense_4h_to_h.weight",
        shape=(4096, 13696),
        layers=range(28),
    ),
)

#: Tensors that a checkpoint may hold and this model does not use, and why.
WAIVED = (
    ("*rotary_pos_emb.inv_freq", "a buffer that is computed from the config"),
    ("transformer.vision.*", "vision"),
    ("classifier_head.*", "task heads"),
    (
        "transformer.prefix_encoder.*",
        "a prefix encoder, for which the config has no length",
    ),
)
