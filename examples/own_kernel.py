"""A kernel of one's own: the residual add and the norm after it.

    glmc compile examples/configs/chatglm3-6b.json -o build/ --disable linear-add \
        --kernel add_rms_norm=examples/own_kernel.py

Without ``linear-add``, which gives the residual to the product before it, a norm has an
add to take.

A program takes a row in pieces of BLOCK columns and reads it twice, where the kernel
that it replaces holds a whole row in registers.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def add_rms_norm_pieces(
    x,
    y,
    weight,
    total,
    out,
    E,
    EPS: tl.constexpr,
    WEIGHT_IN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * E
    squares = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, E, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = column < E
        left = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
        right = tl.load(y + row + column, mask=inside, other=0.0).to(tl.float32)
        added = (left + right).to(total.dtype.element_ty)
        tl.store(total + row + column, added, mask=inside)
        squares += added.to(tl.float32) * added.to(tl.float32)
    scale = tl.rsqrt(tl.sum(squares) / E + EPS)
    for begin in range(0, E, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = column < E
        added = tl.load(total + row + column, mask=inside, other=0.0)
        gain = tl.load(weight + column, mask=inside, other=0.0)
        normed = added.to(tl.float32) * scale
        if WEIGHT_IN == "input":
            normed = normed.to(out.dtype.element_ty).to(tl.float32)
        normed *= gain.to(tl.float32)
        tl.store(out + row + column, normed.to(out.dtype.element_ty), mask=inside)


def add_rms_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    weight_in: str = "input",
) -> tuple[torch.Tensor, torch.Tensor]:
    """s = x + y and rms_norm(s), for x and y [..., E]."""
    left, right = x.contiguous(), y.contiguous()
    total, out = torch.empty_like(left), torch.empty_like(left)
    E = x.shape[-1]
    add_rms_norm_pieces[(x.numel() // E,)](
        left, right, weight, total, out, E, EPS=eps, WEIGHT_IN=weight_in, BLOCK=1024
    )
    return total, out
