"""bert: 6 layers, 384 wide, 30522 tokens.

Written by glmc 0.1.0 from a config.json (spec bert, variant encoder).
"""

import torch
from torch import nn

from .encoder import Encoder
from .modules import Block, parameter


class Layer(Block):
    """Layers 0 to 5."""

    def __init__(self):
        super().__init__()
        self.qkv = parameter(1152, 384)
        self.qkv_bias = parameter(1152)
        self.dense = parameter(384, 384)
        self.dense_bias = parameter(384)
        self.LayerNorm = parameter(384)
        self.LayerNorm_bias = parameter(384)
        self.intermediate_dense = parameter(1536, 384)
        self.intermediate_dense_bias = parameter(1536)
        self.output_dense = parameter(384, 1536)
        self.output_dense_bias = parameter(384)
        self.output_LayerNorm = parameter(384)
        self.output_LayerNorm_bias = parameter(384)

    def forward(self, x, mask, ops):
        qkv = ops.linear(x, self.qkv, bias=self.qkv_bias)
        q, k, v = ops.split(qkv, sizes=(384, 384, 384))
        qh = ops.heads(q, n=12)
        kh = ops.heads(k, n=12)
        vh = ops.heads(v, n=12)
        ctx = ops.full_attention(qh, kh, vh, mask, scale=0.1767766952966369)
        attn = ops.linear(ctx, self.dense, bias=self.dense_bias)
        _, x1 = ops.add_layer_norm(
            x, attn, self.LayerNorm, bias=self.LayerNorm_bias, eps=1e-12
        )
        up = ops.linear(x1, self.intermediate_dense, bias=self.intermediate_dense_bias)
        ff = ops.activation(up, fn="gelu")
        mlp = ops.linear(ff, self.output_dense, bias=self.output_dense_bias)
        _, out = ops.add_layer_norm(
            x1, mlp, self.output_LayerNorm, bias=self.output_LayerNorm_bias, eps=1e-12
        )
        return out


class Model(Encoder):
    """Token ids [B, T] to hidden states, every token seeing every other."""

    max_positions = 512
    vocab_size = 30522
    type_vocab_size = 2
    default_dtype = torch.float32

    def __init__(self):
        super().__init__()
        self.word_embeddings = parameter(30522, 384)
        self.token_type_embeddings = parameter(2, 384)
        self.position_embeddings = parameter(512, 384)
        self.LayerNorm = parameter(384)
        self.LayerNorm_bias = parameter(384)
        self.layers = nn.ModuleList(Layer() for _ in range(6))
        self.dense = parameter(384, 384)
        self.dense_bias = parameter(384)

    def run(self, ids, pos, types, mask, ops):
        tokens = ops.embedding(ids, self.word_embeddings)
        kinds = ops.embedding(types, self.token_type_embeddings)
        total = ops.add(tokens, kinds)
        places = ops.embedding(pos, self.position_embeddings)
        _, x = ops.add_layer_norm(
            total, places, self.LayerNorm, bias=self.LayerNorm_bias, eps=1e-12
        )
        for layer in self.layers:
            x = layer(x, mask, ops)
        first = ops.first_token(x)
        dense = ops.linear(first, self.dense, bias=self.dense_bias)
        pooled = ops.activation(dense, fn="tanh")
        return x, pooled
