"""Matrix products with the norm before them or the op after: their parts in a row.

With `bits` a weight is codes, and what goes with them is as in `quantized_linear`.
"""

import torch

from glmc.backends.torch.ops.elementwise import act_mul, activation, linear
from glmc.backends.torch.ops.norms import layer_norm, rms_norm
from glmc.backends.torch.ops.quantized import quantized_linear


def linear_add(
    x: torch.Tensor,
    weight: torch.Tensor,
    residual: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    zeros: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    bits: int | None = None,
    floats: str | None = None,
    divided: bool = False,
) -> torch.Tensor:
    """`residual + linear(x)`: the product is rounded to the dtype before the sum."""
    codes = (scale, zeros, factor, bits, floats, divided)
    return residual + _multiplied(x, weight, bias, *codes)


def linear_act(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    zeros: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    bits: int | None = None,
    floats: str | None = None,
    divided: bool = False,
    fn: str,
    gated: bool = False,
) -> torch.Tensor:
    """`activation(linear(x))`, or `act_mul` of it where the rows of `weight` [2F, I]
    are `gated`: gate | up."""
    codes = (scale, zeros, factor, bits, floats, divided)
    return _activated(_multiplied(x, weight, bias, *codes), fn, gated)


def rms_norm_linear(
    x: torch.Tensor,
    norm: torch.Tensor,
    weight: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    zeros: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    bits: int | None = None,
    floats: str | None = None,
    divided: bool = False,
    eps: float,
    weight_in: str = "input",
    unit_offset: bool = False,
    fn: str | None = None,
    gated: bool = False,
) -> torch.Tensor:
    """`linear` of `rms_norm(x)` with the weight `norm`, and what follows in
    `linear_act` where `fn` is given."""
    h = rms_norm(x, norm, eps=eps, weight_in=weight_in, unit_offset=unit_offset)
    codes = (scale, zeros, factor, bits, floats, divided)
    return _activated(_multiplied(h, weight, bias, *codes), fn, gated)


def layer_norm_linear(
    x: torch.Tensor,
    norm: torch.Tensor,
    weight: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
    zeros: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
    norm_bias: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    bits: int | None = None,
    floats: str | None = None,
    divided: bool = False,
    eps: float,
    unit_offset: bool = False,
    fn: str | None = None,
    gated: bool = False,
) -> torch.Tensor:
    """`linear` of `layer_norm(x)` with the weight `norm`, and what follows in
    `linear_act` where `fn` is given."""
    h = layer_norm(x, norm, bias=norm_bias, eps=eps, unit_offset=unit_offset)
    codes = (scale, zeros, factor, bits, floats, divided)
    return _activated(_multiplied(h, weight, bias, *codes), fn, gated)


def _multiplied(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    scale: torch.Tensor | None,
    zeros: torch.Tensor | None,
    factor: torch.Tensor | None,
    bits: int | None,
    floats: str | None,
    divided: bool,
) -> torch.Tensor:
    """Multiplies by floats, or by codes, which have `bits` and a `scale`."""
    if bits is None or scale is None:
        return linear(x, weight, bias=bias)
    return quantized_linear(
        x,
        weight,
        scale,
        bits=bits,
        zeros=zeros,
        factor=factor,
        bias=bias,
        floats=floats,
        divided=divided,
    )


def _activated(y: torch.Tensor, fn: str | None, gated: bool) -> torch.Tensor:
    """Returns a product as it is, activated, or gated."""
    if fn is None:
        return y
    return act_mul(y, fn=fn) if gated else activation(y, fn=fn)
