"""The torch functions and tensor methods that a text may use, and what each costs.

A name that is not here does not exist for a text.
"""

import mmap
import operator
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from glmc.frontends.code import costs
from glmc.frontends.code.values import Op
from glmc.frontends.code.words import words

Cost = Callable[..., tuple[int, int]]

DTYPES = words("""
    float32 float float16 half bfloat16 float64 double int64 long int32 int
    int16 short int8 uint8 bool complex64 cfloat complex128 float8_e4m3fn
    float8_e5m2
""")

FUNCTIONS: dict[Cost, str] = {
    costs.like: """
        abs add sub subtract mul multiply div divide true_divide floor_divide
        remainder fmod pow exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square sin
        cos erfinv tan tanh atan2 sigmoid relu erf neg sign reciprocal floor ceil
        round trunc clamp clip clamp_min clamp_max maximum minimum max min amax amin
        mean sum prod std var any all cumsum cumprod logsumexp softmax log_softmax
        norm argmax argmin isnan isinf isfinite isin nan_to_num eq ne lt le gt ge
        greater greater_equal less less_equal not_equal logical_and logical_or
        logical_not logical_xor bitwise_and bitwise_or bitwise_xor bitwise_not where
        masked_fill lerp addcmul zeros_like ones_like empty_like full_like rand_like
        randn_like clone flip roll tril triu scatter scatter_add index_add
        index_fill polar complex view_as_complex view_as_real real imag logaddexp
        heaviside equal is_tensor is_floating_point is_complex numel rms_norm
        layer_norm dropout flatten reshape diff celu selu masked_scatter allclose
        sinh cosh hypot
    """,
    costs.many: "sort argsort topk kthvalue median bucketize searchsorted unique",
    costs.view: """
        transpose permute unsqueeze squeeze swapaxes swapdims movedim narrow select
        expand_copy broadcast_to detach t unflatten diagonal
    """,
    costs.pieces: "split chunk unbind tensor_split split_with_sizes",
    costs.joined: "cat concat concatenate stack hstack vstack dstack",
    costs.sizes: "zeros ones empty rand randn",
    costs.filled: "full",
    costs.square: "eye",
    costs.counted: "arange",
    costs.spaced: "linspace logspace",
    costs.literal: "tensor as_tensor",
    costs.repeated: "tile",
    costs.interleaved: "repeat_interleave",
    costs.matmul: "matmul bmm mm mv dot baddbmm addmm addbmm",
    costs.outer: "outer ger",
    costs.diagonals: "diag",
    costs.grid: "meshgrid",
    costs.chosen: "gather take_along_dim",
    costs.selected: "index_select",
    costs.places: "nonzero masked_select",
    costs.bins: "bincount histc",
    costs.summed: "einsum",
}

FUNCTIONAL: dict[Cost, str] = {
    costs.like: """
        softmax log_softmax relu relu6 gelu silu mish elu leaky_relu selu celu
        sigmoid tanh softplus softsign hardswish hardsigmoid logsigmoid glu prelu
        layer_norm rms_norm group_norm normalize dropout threshold softmin
    """,
    costs.linear: "linear",
    costs.conv: "conv1d conv2d",
    costs.embedding: "embedding",
    costs.hot: "one_hot",
    costs.padded: "pad",
    costs.attention: "scaled_dot_product_attention",
}

METHODS: dict[Cost, str] = {
    costs.like: """
        abs add sub mul div true_divide floor_divide remainder pow exp exp2 log log2
        log1p sqrt rsqrt square sin cos tanh sigmoid relu erf neg sign reciprocal
        floor ceil round trunc clamp clip clamp_min clamp_max maximum minimum max
        min amax amin mean sum prod std var any all cumsum cumprod logsumexp softmax
        log_softmax norm argmax argmin isnan isinf isfinite nan_to_num eq ne lt le
        gt ge greater less logical_and logical_or logical_not logical_xor
        bitwise_and bitwise_or where masked_fill lerp clone flip roll tril triu
        scatter scatter_add index_add scatter_reduce index_fill contiguous reshape
        reshape_as flatten to type type_as float half double bfloat16 long int short
        bool cpu add_ sub_ mul_ div_ pow_ clamp_ clamp_min_ masked_fill_ fill_ zero_
        copy_ exp_ neg_ sqrt_ rsqrt_ sigmoid_ tanh_ tril_ triu_ scatter_
        scatter_add_ scatter_reduce_ index_add_ index_copy_ index_fill_
        masked_scatter masked_scatter_ normal_ uniform_ floor_ round_ equal
        new_tensor detach_ requires_grad_ diff bitwise_not logit addcmul
        greater_equal less_equal not_equal count_nonzero silu_ relu_
    """,
    costs.many: "sort argsort topk kthvalue median unique",
    costs.view: """
        view unsqueeze_ squeeze_ transpose_ transpose permute unsqueeze squeeze
        swapaxes swapdims movedim narrow
        select expand expand_as broadcast_to detach t view_as unflatten diagonal
        unfold size dim numel stride is_contiguous is_floating_point is_complex
        element_size storage_offset nelement get_device ndimension
    """,
    costs.pieces: "split chunk unbind tensor_split",
    costs.new_sizes: "new_zeros new_ones new_empty",
    costs.new_filled: "new_full",
    costs.repeated: "repeat tile",
    costs.interleaved: "repeat_interleave",
    costs.matmul: "matmul bmm mm mv dot baddbmm addmm",
    costs.outer: "outer",
    costs.chosen: "gather take_along_dim",
    costs.selected: "index_select",
    costs.places: "nonzero masked_select",
    costs.bins: "bincount histc",
}

_OPERATORS: dict[Cost, str] = {
    costs.like: """
        add sub mul truediv floordiv mod pow and_ or_ xor lshift rshift lt le gt ge
        eq ne neg pos invert
    """,
    costs.matmul: "matmul",
}


def _table(rows: dict[Cost, str], host: Any, prefix: str) -> dict[str, Op]:
    return {
        name: Op(prefix + name, getattr(host, name), cost)
        for cost, names in rows.items()
        for name in names.split()
        if hasattr(host, name)
    }


TORCH = _table(FUNCTIONS, torch, "torch.")
NN_FUNCTIONAL = _table(FUNCTIONAL, F, "functional.")
TENSOR = _table(METHODS, torch.Tensor, "Tensor.")
OPERATORS = _table(_OPERATORS, operator, "operator.")

_LARGE = 1 << 20
_PRIVATE = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
)


def _zeros(*given: Any, **named: Any) -> torch.Tensor:
    """Do ``torch.zeros``; large ones take memory only where they are written."""
    plan = torch.zeros(*given, **{**named, "device": "meta"})
    size = plan.numel() * plan.element_size()
    device = str(named.get("device") or "cpu")
    if size < _LARGE or not _PRIVATE or not device.startswith("cpu"):
        return torch.zeros(*given, **named)
    pages = mmap.mmap(-1, size, **_PRIVATE)
    return torch.frombuffer(pages, dtype=plan.dtype).view(plan.shape)


TORCH["zeros"] = Op("torch.zeros", _zeros, costs.sizes)
# Memory that nobody has written would show a text what another program left there.
TORCH["empty"] = Op("torch.empty", _zeros, costs.sizes)
TORCH["empty_like"] = Op("torch.empty_like", torch.zeros_like, costs.like)
TENSOR["new_empty"] = Op("Tensor.new_empty", torch.Tensor.new_zeros, costs.new_sizes)
