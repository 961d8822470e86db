"""Every rule of an op holds at its boundary: what just fits is taken, what just does
not is refused, and the result has the shape and the dtype that it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from glmc.ir.cost import Call
from glmc.ir.op import OpTypeError
from glmc.ir.placing import typed
from glmc.ir.types import TensorType, Type
from support.op_types import CLASSES, inferred, named, type_of, with_results

X = {"x": "f16[B,T,8]"}
W = {**X, "weight": "f16[6,8]"}
QKV = {"q": "f16[B,T,4,8]", "kv": "kv[2,8,6]"}
FULL = {
    "q": "f16[B,T,4,8]",
    "k": "f16[B,T,2,8]",
    "v": "f16[B,T,2,6]",
    "mask": "bool[B,T]",
}
ROUTER = {**X, "weight": "f32[8,8]"}
CHOICE = {"experts": "i64[B,T,2]", "weights": "f32[B,T,2]"}
STACKS = {**X, **CHOICE, "gate_up": "f16[4,10,8]", "down": "f16[4,8,5]"}
CODES = {"x": "f16[B,T,16]", "weight": "i8[6,8]", "scale": "f16[6,4]"}
LATENT = {"q": "f16[B,T,2,7]", "latents": "token[9]", "kv_b": "f16[16,6]"}
STREAMS = {"x": "f16[B,T,3,8]"}
POS = {"pos": "i64[B,T]"}
ANGLES = {"x": "f16[B,T,2,8]", "cos": "f32[B,T,3]", "sin": "f32[B,T,3]"}

TAKEN: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    ("linear", {}, W, "f16[B,T,6]"),
    ("concat", {}, {**X, "y": "f16[B,T,2]"}, "f16[B,T,10]"),
    ("heads", {"n": 4}, X, "f16[B,T,4,2]"),
    ("heads", {"n": 8}, X, "f16[B,T,8,1]"),
    ("split", {"sizes": (3, 5)}, X, "f16[B,T,3] f16[B,T,5]"),
    ("split", {"sizes": (8, 0)}, X, "f16[B,T,8] f16[B,T,0]"),
    ("act_mul", {"fn": "silu"}, {"gate_up": "f16[B,T,8]"}, "f16[B,T,4]"),
    ("gate", {"fn": "sigmoid"}, {**X, "g": "f16[B,T,2]"}, "f16[B,T,8]"),
    ("gate", {"fn": "sigmoid"}, {**X, "g": "f16[B,T,8]"}, "f16[B,T,8]"),
    ("add_bias", {}, {**X, "bias": "f16[4]"}, "f16[B,T,8]"),
    ("scale_by", {}, {**X, "weight": "f16[1]"}, "f16[B,T,8]"),
    ("scale_by", {}, {**X, "weight": "f16[8]"}, "f16[B,T,8]"),
    ("first_token", {}, X, "f16[B,8]"),
    ("attention", {"scale": 1.0}, QKV, "f16[B,T,24]"),
    ("attention", {"scale": 1.0, "learned": 0, "window": 4}, QKV, "f16[B,T,24]"),
    ("attention", {"scale": 1.0, "learned": 1}, QKV, "f16[B,T,24]"),
    ("attention", {"scale": 1.0}, {**QKV, "prefix": "i32[B]"}, "f16[B,T,24]"),
    ("attention", {"scale": 1.0}, {**QKV, "slopes": "f32[4]"}, "f16[B,T,24]"),
    ("full_attention", {"scale": 1.0}, FULL, "f16[B,T,24]"),
    (
        "qkv_attention",
        {"heads": 4, "kv_heads": 2, "head_dim": 8, "scale": 1.0},
        {"qkv": "f16[B,T,64]", "kv": "kv[2,8,8]"},
        "f16[B,T,32]",
    ),
    (
        "kv_write",
        {},
        {"kv": "kv[2,8,6]", "k": "f16[B,T,2,8]", "v": "f16[B,T,2,6]"},
        "kv[2,8,6] per token",
    ),
    (
        "moe_router",
        {"top_k": 2, "score": "softmax"},
        ROUTER,
        "i64[B,T,2] f32[B,T,2]",
    ),
    (
        "moe_router",
        {"top_k": 4, "score": "sigmoid", "groups": 4, "top_groups": 2},
        ROUTER,
        "i64[B,T,4] f32[B,T,4]",
    ),
    (
        "moe_router",
        {"top_k": 1, "score": "sigmoid", "groups": 8, "group_score": "max"},
        ROUTER,
        "i64[B,T,1] f32[B,T,1]",
    ),
    ("moe_experts", {"fn": "silu"}, STACKS, "f16[B,T,8]"),
    (
        "scale_experts",
        {},
        {**CHOICE, "scale": "f32[4]"},
        "f32[B,T,2]",
    ),
    (
        "expert_queries",
        {"kv_heads": 3},
        {**X, "experts": "i64[B,T,2]", "weight": "f16[4,12,8]"},
        "f16[B,T,6,4]",
    ),
    (
        "expert_outputs",
        {"kv_heads": 2},
        {**X, **CHOICE, "weight": "f16[4,5,4]"},
        "f16[B,T,5]",
    ),
    ("quantized_linear", {"bits": 4}, CODES, "f16[B,T,6]"),
    ("quantized_linear", {"bits": 8}, {**CODES, "x": "f16[B,T,8]"}, "f16[B,T,6]"),
    (
        "quantized_embedding",
        {"bits": 4},
        {"ids": "i64[B,T]", "weight": "i8[6,8]", "scale": "f16[6]"},
        "f16[B,T,16]",
    ),
    ("latent_attention", {"scale": 1.0}, LATENT, "f16[B,T,8]"),
    (
        "latent_write",
        {},
        {"latents": "token[9]", "latent": "f16[B,T,6]", "shared": "f16[B,T,1,3]"},
        "[9] per token",
    ),
    (
        "token_write",
        {},
        {"kept": "token[9]", "x": "f16[B,T,1,9]"},
        "[9] per token",
    ),
    (
        "index_select",
        {"top_k": 2, "scale": 1.0},
        {"q": "f16[B,T,2,9]", **X, "index": "token[9]", "weight": "f32[2,8]"},
        "i64[B,T,N]",
    ),
    (
        "block_select",
        {"block": 4, "top_k": 2, "local": 2},
        {"q": "f16[B,T,2,9]", "index": "token[9]"},
        "i64[B,T,2,N]",
    ),
    (
        "block_attention",
        {"block": 4, "scale": 1.0},
        {**QKV, "selection": "i64[B,T,2,N]"},
        "f16[B,T,24]",
    ),
    ("repeat_streams", {"count": 1}, X, "f16[B,T,1,8]"),
    ("spread_streams", {}, {**X, "weight": "f16[2,8,8]"}, "f16[B,T,3,8]"),
    ("gather_streams", {}, {**STREAMS, "weight": "f16[2,8,8]"}, "f16[B,T,8]"),
    ("mix_streams", {}, {**STREAMS, "coefs": "f16[B,T,9]"}, "f16[B,T,3,8]"),
    ("stream", {"at": 0}, STREAMS, "f16[B,T,8]"),
    ("stream", {"at": 2}, STREAMS, "f16[B,T,8]"),
    (
        "correct_streams",
        {"at": 2},
        {**STREAMS, "y": "f16[B,T,8]", "coefs": "f16[B,T,3]"},
        "f16[B,T,3,8]",
    ),
    (
        "layer_norm_heads",
        {"eps": 1.0},
        {**STREAMS, "weight": "f16[3,8]"},
        "f16[B,T,3,8]",
    ),
    ("rope_table", {"dim": 6, "theta": 9.0}, POS, "f32[B,T,3] f32[B,T,3]"),
    (
        "rope_table_proportional",
        {"dim": 6, "theta": 9.0, "turning": 3},
        POS,
        "f32[B,T,3] f32[B,T,3]",
    ),
    (
        "rope_table_sections",
        {"dim": 8, "theta": 9.0},
        {"pos": "i64[B,2,T]"},
        "f32[B,T,4] f32[B,T,4]",
    ),
    ("rope", {"style": "half", "first": 2}, ANGLES, "f16[B,T,2,8]"),
    ("rope", {"style": "half", "sections": 3}, ANGLES, "f16[B,T,2,8]"),
    ("sinusoids", {"dim": 6}, POS, "f32[B,T,6]"),
    ("alibi_slopes", {"heads": 3}, POS, "f32[3]"),
    ("query_scale", {"beta": 0.1, "context": 8}, POS, "f32[B,T]"),
    ("layer_factors", {"rows": ((1.0, 2.0),) * 3}, POS, "f32[1,1,3,2]"),
    ("scale_by_factor", {"at": 1}, {**X, "factors": "f32[1,1,2]"}, "f16[B,T,8]"),
    ("linear_act", {"fn": "silu", "gated": True}, W, "f16[B,T,3]"),
    ("linear_add", {}, {**W, "residual": "f16[B,T,6]"}, "f16[B,T,6]"),
]
REFUSED: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    ("linear", {}, {**W, "weight": "f16[6,7]"}, "does not multiply"),
    ("linear", {}, {**W, "weight": "f32[6,8]"}, "differ in dtype"),
    ("linear", {}, {**W, "weight": "f16[6]"}, "must have 2 dims"),
    ("linear", {}, {**W, "bias": "f16[8]"}, "does not fit"),
    ("concat", {}, {**X, "y": "f32[B,T,2]"}, "does not stand beside"),
    ("concat", {}, {**X, "y": "f16[B,2]"}, "does not stand beside"),
    ("heads", {"n": 3}, X, "not made of 3 heads"),
    ("heads", {"n": 1}, {"x": "f16[B,T,N]"}, "not made of 1 heads"),
    ("split", {"sizes": (3, 4)}, X, "do not sum"),
    ("act_mul", {"fn": "silu"}, {"gate_up": "f16[B,T,7]"}, "does not halve"),
    ("gate", {"fn": "sigmoid"}, {**X, "g": "f16[B,T,3]"}, "do not fit"),
    ("gate", {"fn": "sigmoid"}, {**X, "g": "f16[B,8]"}, "do not fit"),
    ("add_bias", {}, {**X, "bias": "f16[3]"}, "neither the channels"),
    ("add_bias", {}, {**X, "bias": "f16[8,1]"}, "neither the channels"),
    ("scale_by", {}, {**X, "weight": "f16[2]"}, "neither one number"),
    ("first_token", {}, STREAMS, "no token dimension"),
    ("attention", {"scale": 1.0}, {**QKV, "q": "f16[B,T,3,8]"}, "do not group"),
    ("attention", {"scale": 1.0}, {**QKV, "q": "f16[B,T,4,6]"}, "not as wide"),
    ("attention", {"scale": 1.0}, {**QKV, "q": "f16[B,T,32]"}, "heads,width"),
    ("attention", {"scale": 1.0, "learned": -1}, QKV, "-1 learned slots"),
    ("attention", {"scale": 1.0, "learned": 1, "window": 4}, QKV, "would hide"),
    ("attention", {"scale": 1.0}, {**QKV, "sinks": "f32[2]"}, "one for each head"),
    ("attention", {"scale": 1.0}, {**QKV, "prefix": "i32[B,T]"}, "must be i32"),
    ("attention", {"scale": 1.0, "window": 4}, {**QKV, "prefix": "i32[B]"}, "together"),
    ("full_attention", {"scale": 1.0}, {**FULL, "v": "f16[B,T,4,6]"}, "go with values"),
    ("full_attention", {"scale": 1.0}, {**FULL, "k": "f16[B,T,2,6]"}, "not as wide"),
    ("full_attention", {"scale": 1.0}, {**FULL, "mask": "bool[B]"}, "mask must be"),
    ("full_attention", {"scale": 1.0, "window": 0}, FULL, "hides every token"),
    ("attention", {"scale": 1.0, "window": -1}, QKV, "hides every token"),
    (
        "qkv_attention",
        {"heads": 4, "kv_heads": 2, "head_dim": 8, "scale": 1.0},
        {"qkv": "f16[B,T,63]", "kv": "kv[2,8,8]"},
        "does not hold 64",
    ),
    (
        "kv_write",
        {},
        {"kv": "kv[2,8,6]", "k": "f16[B,T,2,8]", "v": "f16[B,T,2,8]"},
        "values .* do not fit",
    ),
    (
        "moe_router",
        {"top_k": 1, "score": "sigmoid", "groups": 8},
        ROUTER,
        "needs two experts",
    ),
    (
        "moe_router",
        {"top_k": 5, "score": "sigmoid", "groups": 4, "top_groups": 2},
        ROUTER,
        "top_k is 5 of 4",
    ),
    ("moe_router", {"top_k": 0, "score": "softmax"}, ROUTER, "top_k is 0"),
    ("moe_router", {"top_k": 9, "score": "softmax"}, ROUTER, "top_k is 9 of 8"),
    (
        "moe_router",
        {"top_k": 1, "score": "softmax", "groups": 3},
        ROUTER,
        "do not make 3 groups",
    ),
    (
        "moe_router",
        {"top_k": 1, "score": "softmax", "groups": 4, "top_groups": 5},
        ROUTER,
        "top_groups is 5",
    ),
    (
        "moe_router",
        {"top_k": 1, "score": "softmax", "groups": 4, "top_groups": 0},
        ROUTER,
        "top_groups is 0",
    ),
    ("moe_router", {"top_k": 1, "score": "logit"}, ROUTER, "logits need it"),
    ("moe_router", {"top_k": 1, "score": "sparsemixer"}, ROUTER, "jitter is for"),
    (
        "moe_router",
        {"top_k": 1, "score": "sparsemixer", "jitter": 0.1, "groups": 2},
        ROUTER,
        "in its own way",
    ),
    (
        "moe_router",
        {"top_k": 1, "score": "softmax"},
        {**ROUTER, "weight": "f16[8,8]"},
        "computes in f32",
    ),
    (
        "moe_router",
        {"top_k": 1, "score": "softmax"},
        {**ROUTER, "correction": "f32[7]"},
        "correction .* does not fit",
    ),
    (
        "moe_router",
        {"top_k": 1, "score": "softmax"},
        {**ROUTER, "ids": "i64[B,T]"},
        "a table needs ids",
    ),
    (
        "moe_router",
        {"top_k": 1, "score": "softmax", "groups": 2},
        {**ROUTER, "ids": "i64[B,T]", "table": "i64[V,1]"},
        "nothing to choose",
    ),
    (
        "moe_router",
        {"top_k": 1, "score": "softmax"},
        {**ROUTER, "ids": "i64[B,T]", "table": "i64[V,2]"},
        "does not name 1 experts",
    ),
    (
        "moe_experts",
        {"fn": "silu"},
        {**STACKS, "weights": "f32[B,T,3]"},
        "do not fit",
    ),
    (
        "moe_experts",
        {"fn": "silu"},
        {**STACKS, "gate_up": "f16[4,9,8]"},
        "does not fit",
    ),
    (
        "moe_experts",
        {"fn": "silu"},
        {**STACKS, "gate_up": "f16[3,10,8]"},
        "does not fit",
    ),
    (
        "scale_experts",
        {},
        {**CHOICE, "scale": "f16[4]"},
        "do not go with",
    ),
    (
        "expert_queries",
        {"kv_heads": 5},
        {**X, "experts": "i64[B,T,2]", "weight": "f16[4,12,8]"},
        "does not make 5 heads",
    ),
    (
        "expert_outputs",
        {"kv_heads": 3},
        {**X, **CHOICE, "weight": "f16[4,5,4]"},
        "does not read heads",
    ),
    (
        "quantized_embedding",
        {"bits": 4},
        {"ids": "i8[B,T]", "weight": "i8[6,8]", "scale": "f16[6]"},
        "ids must be i64",
    ),
    ("quantized_linear", {"bits": 2}, CODES, "4 or 8 bits"),
    ("quantized_linear", {"bits": 8}, CODES, "does not multiply 8"),
    ("quantized_linear", {"bits": 4}, {**CODES, "scale": "f16[6,3]"}, "do not divide"),
    ("quantized_linear", {"bits": 4}, {**CODES, "scale": "f32[6,4]"}, "in dtype"),
    ("quantized_linear", {"bits": 4}, {**CODES, "zeros": "i8[6]"}, "do not fit scale"),
    ("quantized_linear", {"bits": 4}, {**CODES, "scale": "f16[6,4,1]"}, "1 or 2 dims"),
    ("latent_attention", {"scale": 1.0}, {**LATENT, "kv_b": "f16[16,10]"}, "not make"),
    ("latent_attention", {"scale": 1.0}, {**LATENT, "kv_b": "f16[15,6]"}, "not make"),
    ("latent_attention", {"scale": 1.0}, {**LATENT, "kv_b": "f16[8,6]"}, "not make"),
    ("latent_attention", {"scale": 1.0}, {**LATENT, "q": "f16[B,T,2,3]"}, "not make"),
    ("latent_attention", {"scale": 1.0}, {**LATENT, "bias": "f16[8]"}, "does not fit"),
    (
        "latent_write",
        {},
        {"latents": "token[9]", "latent": "f16[B,T,6]", "shared": "f16[B,T,1,4]"},
        "do not fill",
    ),
    (
        "latent_write",
        {},
        {"latents": "token[9]", "latent": "f16[B,T,6]", "shared": "f16[B,T,3]"},
        "not of one head",
    ),
    (
        "block_select",
        {"block": 4, "top_k": 2, "local": 3},
        {"q": "f16[B,T,2,9]", "index": "token[9]"},
        "3 of 2 blocks",
    ),
    (
        "block_attention",
        {"block": 4, "scale": 1.0},
        {**QKV, "selection": "i64[B,T,3,N]"},
        "selection .* is not for",
    ),
    ("repeat_streams", {"count": 0}, X, "is not"),
    ("spread_streams", {}, {**X, "weight": "f16[2,8,6]"}, "no matrix for each"),
    ("gather_streams", {}, {**STREAMS, "weight": "f16[3,8,8]"}, "no matrix for each"),
    ("mix_streams", {}, {**STREAMS, "coefs": "f16[B,T,6]"}, "not coefficients"),
    ("stream", {"at": 3}, STREAMS, "has no stream 3"),
    ("stream", {"at": -1}, STREAMS, "has no stream -1"),
    (
        "correct_streams",
        {"at": 3},
        {**STREAMS, "y": "f16[B,T,8]", "coefs": "f16[B,T,3]"},
        "has no stream 3",
    ),
    ("rope_table", {"dim": 5, "theta": 9.0}, POS, "is odd"),
    ("rope_table", {"dim": 6, "theta": 9.0}, {"pos": "i32[B,T]"}, "must be i64"),
    (
        "rope_table_proportional",
        {"dim": 6, "theta": 9.0, "turning": 4},
        POS,
        "cannot turn",
    ),
    (
        "rope_table_proportional",
        {"dim": 6, "theta": 9.0, "turning": -1},
        POS,
        "cannot turn",
    ),
    (
        "rope_table_sections",
        {"dim": 6, "theta": 9.0},
        {"pos": "i64[B,2,T]"},
        "does not make 2 sections",
    ),
    ("rope", {"style": "half", "first": 3}, ANGLES, "is wider"),
    ("rope", {"style": "half", "sections": 2}, ANGLES, "does not make 2 sections"),
    ("rope", {"style": "half", "sections": 0}, ANGLES, "does not make 0 sections"),
    ("rope", {"style": "half"}, {**ANGLES, "sin": "f32[B,T,2]"}, "is not sin"),
    ("sinusoids", {"dim": 5}, POS, "not sines and cosines"),
    ("query_scale", {"context": 8}, POS, "by beta or by an exponent"),
    ("layer_factors", {"rows": ((1.0,), (1.0, 2.0))}, POS, "different numbers"),
    ("layer_factors", {"rows": ()}, POS, "different numbers"),
    ("linear", {}, {**W, "weight": "f16[6,8,1]"}, "must have 2 dims"),
    ("latent_attention", {"scale": 1.0}, {**LATENT, "kv_b": "f16[16]"}, "have 2 dims"),
    (
        "moe_router",
        {"top_k": 1, "score": "softmax"},
        {**X, "weight": "f32[8]"},
        "2 dims",
    ),
    (
        "expert_queries",
        {"kv_heads": 3},
        {**X, "experts": "i64[B,T,2]", "weight": "f16[12,8]"},
        "must have 3 dims",
    ),
    ("first_token", {}, {"x": "f16[B,8]"}, "no token dimension"),
    ("spread_streams", {}, {"x": "f16[B,8]", "weight": "f16[2,8,8]"}, "is not"),
    ("stream", {"at": 0}, X, "does not hold streams"),
    ("rope", {"style": "half"}, {**ANGLES, "x": "f16[B,T,8]"}, "heads,width"),
    ("scale_by_factor", {"at": 2}, {**X, "factors": "f32[1,1,2]"}, "no factor 2"),
    ("scale_by_factor", {"at": -1}, {**X, "factors": "f32[1,1,2]"}, "no factor -1"),
    (
        "linear_act",
        {"fn": "silu", "gated": True},
        {**W, "weight": "f16[5,8]"},
        "halves",
    ),
    ("linear_add", {}, {**W, "residual": "f16[B,T,8]"}, "is not"),
    ("linear_act", {"fn": "silu", "bits": 4}, W, "need a scale"),
    ("linear_act", {"fn": "silu"}, {**W, "scale": "f16[6]"}, "goes with codes"),
]


# By hand, for 2 rows of 3 tokens after 4: 6 tokens, of which a row's see 5 + 6 + 7.
CALL = Call(batch=2, tokens=3, context=4)
FLOPS: list[tuple[str, dict[str, Any], dict[str, str], int]] = [
    ("linear", {}, W, 2 * 6 * 8 * 6),
    ("concat", {}, {**X, "y": "f16[B,T,2]"}, 0),
    ("act_mul", {"fn": "silu"}, {"gate_up": "f16[B,T,8]"}, 2 * 6 * 4),
    ("rope", {"style": "half"}, ANGLES, 6 * 6 * 3 * 2),
    ("rope_table", {"dim": 6, "theta": 9.0}, POS, 3 * 6 * 3),
    ("spread_streams", {}, {**X, "weight": "f16[2,8,8]"}, 2 * 6 * 8 * 16),
    ("gather_streams", {}, {**STREAMS, "weight": "f16[2,8,8]"}, 2 * 6 * 2 * 8 * 8),
    ("mix_streams", {}, {**STREAMS, "coefs": "f16[B,T,9]"}, 2 * 6 * 3 * 8 * 3),
    (
        "expert_queries",
        {"kv_heads": 3},
        {**X, "experts": "i64[B,T,2]", "weight": "f16[4,12,8]"},
        2 * 6 * 2 * 12 * 8,
    ),
    (
        "expert_outputs",
        {"kv_heads": 2},
        {**X, **CHOICE, "weight": "f16[4,5,4]"},
        2 * 6 * 2 * 5 * 4,
    ),
    ("moe_router", {"top_k": 2, "score": "softmax"}, ROUTER, 2 * 6 * 8 * 8),
    ("moe_experts", {"fn": "silu"}, STACKS, 2 * 6 * 2 * 3 * 8 * 5),
    (
        "index_select",
        {"top_k": 2, "scale": 1.0},
        {"q": "f16[B,T,2,9]", **X, "index": "token[9]", "weight": "f32[2,8]"},
        2 * (2 * 2 * 18 * 9 + 6 * 8 * 2),
    ),
    (
        "block_select",
        {"block": 4, "top_k": 2},
        {"q": "f16[B,T,2,9]", "index": "token[9]"},
        2 * 2 * 2 * 18 * 9,
    ),
    (
        "linear_act",
        {"fn": "silu", "gated": True},
        W,
        2 * 6 * 8 * 6 + 2 * 6 * 3,
    ),
    ("linear_act", {"fn": "silu"}, W, 2 * 6 * 8 * 6 + 6 * 6),
    ("linear_add", {}, {**W, "residual": "f16[B,T,6]"}, 2 * 6 * 8 * 6 + 6 * 6),
    (
        "latent_write",
        {},
        {"latents": "token[9]", "latent": "f16[B,T,6]", "shared": "f16[B,T,1,3]"},
        0,
    ),
]
BYTES: list[tuple[str, dict[str, Any], dict[str, str], int]] = [
    ("concat", {}, {**X, "y": "f16[B,T,2]"}, 2 * 6 * (8 + 2 + 10)),
    # Two of four experts at most for a single token; never more than there are.
    ("moe_experts", {"fn": "silu"}, STACKS, 2 * 6 * 16 + 6 * 2 * 12 + 4 * 120 * 2),
    (
        "token_write",
        {},
        {"kept": "token[9]", "x": "f16[B,T,1,9]"},
        2 * 2 * 6 * 9,
    ),
    (
        "latent_write",
        {},
        {"latents": "token[9]", "latent": "f16[B,T,6]", "shared": "f16[B,T,1,3]"},
        2 * 2 * 6 * 9,
    ),
    (
        "quantized_embedding",
        {"bits": 4},
        {"ids": "i64[B,T]", "weight": "i8[9,8]", "scale": "f16[9]"},
        8 * 6 + 6 * (8 + 2) + 6 * 16 * 2,
    ),
    (
        "block_select",
        {"block": 4, "top_k": 2},
        {"q": "f16[B,T,2,9]", "index": "token[9]"},
        2 * 6 * 18 + 8 * 6 * 2 + 2 * 2 * 7 * 9,
    ),
]


def others(of: Type) -> Iterator[Type]:
    """Types that an operand could be given instead, in a dump that was edited."""
    if isinstance(of, TensorType):
        for dims in (
            of.dims[:-1],
            of.dims[1:],
            (*of.dims, 2),
            (),
            (*of.dims[:-1], "T"),
            (*of.dims[:-1], 0),
            ("T",) * len(of.dims),
        ):
            yield TensorType(dtype=of.dtype, dims=dims)
        yield TensorType(dtype="i32", dims=of.dims)
    else:
        yield from map(type_of, ("f16[B,T,8]", "kv[1,1,1]", "token[3]"))


@pytest.mark.parametrize("case", TAKEN, ids=named)
def test_what_just_fits_is_taken(
    case: tuple[str, dict[str, Any], dict[str, str], str],
) -> None:
    name, attributes, types, made = case
    assert inferred(name, attributes, types) == made


@pytest.mark.parametrize("case", REFUSED, ids=named)
def test_what_just_does_not_is_refused(
    case: tuple[str, dict[str, Any], dict[str, str], str],
) -> None:
    name, attributes, types, rule = case
    with pytest.raises(OpTypeError, match=rule):
        inferred(name, attributes, types)


@pytest.mark.parametrize("case", FLOPS, ids=named)
def test_operations_are_those_counted_by_hand(
    case: tuple[str, dict[str, Any], dict[str, str], int],
) -> None:
    name, attributes, types, count = case
    op = with_results(name, attributes, types)
    assert op.flops({k: type_of(text) for k, text in types.items()}, CALL) == count


@pytest.mark.parametrize("case", BYTES, ids=named)
def test_bytes_are_those_counted_by_hand(
    case: tuple[str, dict[str, Any], dict[str, str], int],
) -> None:
    name, attributes, types, count = case
    op = with_results(name, attributes, types)
    assert op.nbytes({k: type_of(text) for k, text in types.items()}, CALL) == count


@pytest.mark.parametrize("case", TAKEN, ids=named)
def test_whatever_an_operand_is_the_answer_is_types_or_a_refusal(
    case: tuple[str, dict[str, Any], dict[str, str], str],
) -> None:
    name, attributes, texts, _ = case
    types = {key: type_of(text) for key, text in texts.items()}
    op = CLASSES[name](results=(), **{key: key for key in types}, **attributes)
    refused = 0
    for key, of in types.items():
        for other in others(of):
            try:
                typed(op, {**types, key: other})
            except OpTypeError:
                refused += 1
    assert refused
