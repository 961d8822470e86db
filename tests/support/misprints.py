"""Seeded faults of a build: lines that say something else than the program, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from support.misreadings import BIASES, GPT2, LLAMA, QWEN3


@dataclass(frozen=True)
class Misprint:
    """A line of the build that says something else than the program."""

    name: str
    base: str
    file: str
    old: str
    new: str
    ops: str
    place: int | str | None = 0


MODEL, WEIGHTS, OPS, KERNELS = "model.py", "weights.py", "reference.py", "kernels.py"

C_PROJ = '"transformer.h.{i}.attn.c_proj.weight"'

MISPRINTS: Sequence[Misprint] = (
    Misprint(
        "style", LLAMA, MODEL, 'style="half"', 'style="interleaved"', "qkv_attention"
    ),
    Misprint(
        "theta", LLAMA, MODEL, "theta=10000.0", "theta=10500.0", "rope_table", "stem"
    ),
    Misprint("scale", LLAMA, MODEL, "scale=0.25", "scale=0.3", "qkv_attention"),
    Misprint("activation", LLAMA, MODEL, 'fn="silu"', 'fn="gelu"', "rms_norm_linear"),
    Misprint(
        "final eps",
        LLAMA,
        MODEL,
        "self.lm_head, eps=0.01",
        "self.lm_head, eps=0.1",
        "rms_norm_linear",
        "head",
    ),
    Misprint(
        "a bias", BIASES, MODEL, "bias=self.qkv_bias", "bias=None", "rms_norm_linear"
    ),
    Misprint(
        "an operand",
        LLAMA,
        MODEL,
        "self.o_proj, x)",
        "self.o_proj, ctx)",
        "linear_add",
    ),
    Misprint(
        "a norm",
        LLAMA,
        MODEL,
        "            self.post_attention_layernorm",
        "            self.input_layernorm",
        "rms_norm_linear",
    ),
    Misprint(
        "an op left out",
        LLAMA,
        MODEL,
        "gated=True",
        "gated=False",
        "rms_norm_linear",
    ),
    Misprint("heads", LLAMA, MODEL, "kv_heads=2", "kv_heads=1", "qkv_attention"),
    Misprint("what is handed on", LLAMA, MODEL, "return out", "return x1", "", None),
    Misprint(
        "v for k",
        LLAMA,
        WEIGHTS,
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "rms_norm_linear",
    ),
    Misprint(
        "gate twice",
        LLAMA,
        WEIGHTS,
        "mlp.up_proj.weight",
        "mlp.gate_proj.weight",
        "rms_norm_linear",
    ),
    Misprint(
        "a norm's weights",
        LLAMA,
        WEIGHTS,
        ".input_layernorm.weight",
        ".post_attention_layernorm.weight",
        "rms_norm_linear",
    ),
    Misprint(
        "a layer's weights",
        LLAMA,
        WEIGHTS,
        "layers.{i}.mlp.down",
        "layers.0.mlp.down",
        "linear_add",
        1,
    ),
    Misprint(
        "a transposition",
        GPT2,
        WEIGHTS,
        f"permute(tensor({C_PROJ}, 64, 64), 1, 0)",
        C_PROJ,
        "linear_add",
    ),
    Misprint(
        "a sign of rope",
        LLAMA,
        OPS,
        "b * cos + a * sin",
        "b * cos - a * sin",
        "qkv_attention",
    ),
    Misprint(
        "no eps",
        LLAMA,
        OPS,
        "keepdim=True) + eps",
        "keepdim=True)",
        "rms_norm_linear",
    ),
    Misprint(
        "halves",
        LLAMA,
        OPS,
        "ACTIVATIONS[fn](gate) * up",
        "ACTIVATIONS[fn](up) * gate",
        "rms_norm_linear",
    ),
    Misprint(
        "decoding's scale",
        LLAMA,
        OPS,
        "keys.transpose(-1, -2)) * scale",
        "keys.transpose(-1, -2))",
        "qkv_attention",
    ),
    Misprint(
        "padding is seen", LLAMA, OPS, "(visible & real)", "visible", "qkv_attention"
    ),
    Misprint(
        "a window is one longer",
        QWEN3,
        OPS,
        "queries - slots < window",
        "queries - slots <= window",
        "qkv_attention",
        2,
    ),
    Misprint(
        "a slot too far",
        LLAMA,
        OPS,
        "kv.write(kv.past, k.transpose(1, 2)",
        "kv.write(kv.past, k.roll(1, 1).transpose(1, 2)",
        "qkv_attention",
    ),
    Misprint(
        "positions off by one",
        LLAMA,
        "inputs.py",
        "torch.arange(cache.tokens, end,",
        "(cache.tokens > 0) + torch.arange(cache.tokens, end,",
        "rope_table",
        "stem",
    ),
    Misprint(
        "another eps in a kernel",
        LLAMA,
        KERNELS,
        "/ IN + EPS",
        "/ IN + 9 * EPS",
        "rms_norm_linear",
    ),
    Misprint(
        "a sigmoid in a kernel",
        LLAMA,
        KERNELS,
        "x * tl.sigmoid(x)",
        "x * tl.sigmoid(-x)",
        "rms_norm_linear",
    ),
    Misprint(
        "a sign in a kernel",
        LLAMA,
        KERNELS,
        "tl.where(first, -partner, partner)",
        "tl.where(first, partner, -partner)",
        "qkv_attention",
    ),
    Misprint(
        "a mask in a kernel",
        LLAMA,
        KERNELS,
        "visible = distance >= 0",
        "visible = distance >= -1",
        "qkv_attention",
    ),
)
