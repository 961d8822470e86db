"""The place of every parameter of the model in the published checkpoint.

A string is a tensor's name; ``{i}`` in it is the layer's index.
"""

from .recipes import Bind, cat, tensor

#: Checkpoints saved without the language-model head leave this out of their names.
OPTIONAL_PREFIX = "bert."

#: Endings of names as older checkpoints spell them, and as they are spelt here.
OLD_NAMES = (
    ("LayerNorm.gamma", "LayerNorm.weight"),
    ("LayerNorm.beta", "LayerNorm.bias"),
)

WEIGHTS = (
    Bind(
        "word_embeddings", "bert.embeddings.word_embeddings.weight", shape=(30522, 384)
    ),
    Bind(
        "token_type_embeddings",
        "bert.embeddings.token_type_embeddings.weight",
        shape=(2, 384),
    ),
    Bind(
        "position_embeddings",
        "bert.embeddings.position_embeddings.weight",
        shape=(512, 384),
    ),
    Bind("LayerNorm", "bert.embeddings.LayerNorm.weight", shape=(384,)),
    Bind("LayerNorm_bias", "bert.embeddings.LayerNorm.bias", shape=(384,)),
    Bind("dense", "bert.pooler.dense.weight", shape=(384, 384)),
    Bind("dense_bias", "bert.pooler.dense.bias", shape=(384,)),
    Bind(
        "layers.{i}.qkv",
        cat(
            tensor("bert.encoder.layer.{i}.attention.self.query.weight", 384, 384),
            tensor("bert.encoder.layer.{i}.attention.self.key.weight", 384, 384),
            tensor("bert.encoder.layer.{i}.attention.self.value.weight", 384, 384),
        ),
        shape=(1152, 384),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.qkv_bias",
        cat(
            tensor("bert.encoder.layer.{i}.attention.self.query.bias", 384),
            tensor("bert.encoder.layer.{i}.attention.self.key.bias", 384),
            tensor("bert.encoder.layer.{i}.attention.self.value.bias", 384),
        ),
        shape=(1152,),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.dense",
        "bert.encoder.layer.{i}.attention.output.dense.weight",
        shape=(384, 384),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.dense_bias",
        "bert.encoder.layer.{i}.attention.output.dense.bias",
        shape=(384,),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.LayerNorm",
        "bert.encoder.layer.{i}.attention.output.LayerNorm.weight",
        shape=(384,),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.LayerNorm_bias",
        "bert.encoder.layer.{i}.attention.output.LayerNorm.bias",
        shape=(384,),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.intermediate_dense",
        "bert.encoder.layer.{i}.intermediate.dense.weight",
        shape=(1536, 384),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.intermediate_dense_bias",
        "bert.encoder.layer.{i}.intermediate.dense.bias",
        shape=(1536,),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.output_dense",
        "bert.encoder.layer.{i}.output.dense.weight",
        shape=(384, 1536),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.output_dense_bias",
        "bert.encoder.layer.{i}.output.dense.bias",
        shape=(384,),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.output_LayerNorm",
        "bert.encoder.layer.{i}.output.LayerNorm.weight",
        shape=(384,),
        layers=range(6),
    ),
    Bind(
        "layers.{i}.output_LayerNorm_bias",
        "bert.encoder.layer.{i}.output.LayerNorm.bias",
        shape=(384,),
        layers=range(6),
    ),
)

#: Tensors that a checkpoint may hold and this model does not use, and why.
WAIVED = (
    ("*embeddings.position_ids", "the numbers 0, 1, 2, ..., which are computed"),
    ("*embeddings.token_type_ids", "zeros, which are the default"),
    ("cls.*", "the heads of pre-training"),
)
