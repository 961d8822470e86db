"""A Triton kernel that reads memory and does next to nothing else."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 16384


# Triton has no types, and reads the annotations of a kernel as its own.
@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def read_kernel(data, out, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program adds up BLOCK numbers, so that none of the loads can be left out."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    place = first + tl.arange(0, BLOCK)
    value = tl.load(data + place, mask=place < count, other=0.0)
    tl.store(out + tl.program_id(0), tl.sum(value))


def read(data: torch.Tensor, out: torch.Tensor) -> None:
    """Reads `data` fp32 [n] whole; `out` has a place for each BLOCK of it."""
    read_kernel[(out.numel(),)](data, out, data.numel(), BLOCK=BLOCK, num_warps=8)
