"""llama: 80 layers, 8192 wide, 128256 tokens.

Written by glmc 0.1.0 from a config.json (spec llama).
"""

import torch
from torch import nn

from .causal_lm import CausalLM
from .modules import Block, parameter
from .state import KeysValues, States


class Layer(Block):
    """Layers 0 to 79."""

    states = States(kv=KeysValues(8, 128, 128))

    def __init__(self):
        super().__init__()
        self.input_layernorm = parameter(8192)
        self.qkv = parameter(10240, 8192)
        self.o_proj = parameter(8192, 8192)
        self.post_attention_layernorm = parameter(8192)
        self.gate_up = parameter(57344, 8192)
        self.down_proj = parameter(8192, 28672)

    def forward(self, x, cos, sin, state, ops):
        qkv = ops.rms_norm_linear(x, self.input_layernorm, self.qkv, eps=1e-05)
        ctx = ops.qkv_attention(
            qkv,
            state.kv,
            cos=cos,
            sin=sin,
            heads=64,
            kv_heads=8,
            head_dim=128,
            scale=0.08838834764831845,
            style="half",
        )
        x1 = ops.linear_add(ctx, self.o_proj, x)
        ff = ops.rms_norm_linear(
            x1,
            self.post_attention_layernorm,
            self.gate_up,
            eps=1e-05,
            fn="silu",
            gated=True,
        )
        out = ops.linear_add(ff, self.down_proj, x1)
        return out


class Model(CausalLM):
    """Token ids [B, T] to logits [B, T, 128256]."""

    max_positions = None
    trained_positions = 131072
    vocab_size = 128256
    eos_token_id = (128001,)
    pad_token_id = None
    default_dtype = torch.bfloat16

    def __init__(self):
        super().__init__()
        self.embed_tokens = parameter(128256, 8192)
        self.layers = nn.ModuleList(Layer() for _ in range(80))
        self.norm = parameter(8192)
        self.lm_head = parameter(128256, 8192)

    def run(self, ids, pos, cache, keep, ops):
        x = ops.embedding(ids, self.embed_tokens)
        cos, sin = ops.rope_table_llama3(
            pos,
            dim=128,
            theta=500000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_positions=8192,
        )
        for layer, state in zip(self.layers, cache.layers, strict=True):
            x = layer(x, cos, sin, state, ops)
        x = x[:, -keep:]
        return ops.rms_norm_linear(x, self.norm, self.lm_head, eps=1e-05)
