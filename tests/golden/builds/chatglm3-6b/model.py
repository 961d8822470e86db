"""chatglm: 28 layers, 4096 wide, 65024 tokens.

Written by glmc 0.1.0 from a config.json (spec chatglm, variant chatglm3).
"""

import torch
from torch import nn

from .causal_lm import CausalLM
from .modules import Block, parameter
from .state import KeysValues, States


class Layer(Block):
    """Layers 0 to 27."""

    states = States(kv=KeysValues(2, 128, 128))

    def __init__(self):
        super().__init__()
        self.input_layernorm = parameter(4096)
        self.qkv = parameter(4608, 4096)
        self.qkv_bias = parameter(4608)
        self.dense = parameter(4096, 4096)
        self.post_attention_layernorm = parameter(4096)
        self.gate_up = parameter(27392, 4096)
        self.dense_4h_to_h = parameter(4096, 13696)

    def forward(self, x, cos, sin, state, ops):
        qkv = ops.rms_norm_linear(
            x,
            self.input_layernorm,
            self.qkv,
            bias=self.qkv_bias,
            eps=1e-05,
            weight_in="f32",
        )
        ctx = ops.qkv_attention(
            qkv,
            state.kv,
            cos=cos,
            sin=sin,
            heads=32,
            kv_heads=2,
            head_dim=128,
            scale=0.08838834764831845,
            style="interleaved",
        )
        x1 = ops.linear_add(ctx, self.dense, x)
        ff = ops.rms_norm_linear(
            x1,
            self.post_attention_layernorm,
            self.gate_up,
            eps=1e-05,
            weight_in="f32",
            fn="silu",
            gated=True,
        )
        out = ops.linear_add(ff, self.dense_4h_to_h, x1)
        return out


class Model(CausalLM):
    """Token ids [B, T] to logits [B, T, 65024]."""

    max_positions = None
    trained_positions = 8192
    vocab_size = 65024
    eos_token_id = (2,)
    pad_token_id = 0
    default_dtype = torch.float16

    def __init__(self):
        super().__init__()
        self.word_embeddings = parameter(65024, 4096)
        self.layers = nn.ModuleList(Layer() for _ in range(28))
        self.final_layernorm = parameter(4096)
        self.output_layer = parameter(65024, 4096)

    def run(self, ids, pos, cache, keep, ops):
        x = ops.embedding(ids, self.word_embeddings)
        cos, sin = ops.rope_table(pos, dim=64, theta=10000.0)
        for layer, state in zip(self.layers, cache.layers, strict=True):
            x = layer(x, cos, sin, state, ops)
        x = x[:, -keep:]
        return ops.rms_norm_linear(
            x, self.final_layernorm, self.output_layer, eps=1e-05, weight_in="f32"
        )
