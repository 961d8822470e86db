"""Tolerance, states and padding of tests of the kernels between products."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from support.cpu.kernels import levels

WIDE = torch.float32
TOLERANCE = {torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 4e-2}
CASES = [f"{level} {dtype}" for level in levels() for dtype in ("bfloat16", "float32")]
PADDED = [(0, 1, None), (5, 1, None), (0, 9, None), (3, 9, None), (0, 9, [0, 4])]
"""Tokens before a call, of it, and where rows begin."""


def near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Equal within the tolerance of a dtype, relative to the largest value."""
    scale = max(1.0, float(expected.float().abs().max()))
    difference = float((found - expected.float()).abs().max())
    assert difference <= TOLERANCE[dtype] * scale, difference


def pointer(tensor: torch.Tensor | None) -> int | None:
    """The address of what is there."""
    return None if tensor is None else tensor.data_ptr()


def row_state(rows: torch.Tensor, past: int, start: torch.Tensor | None) -> Any:
    """A state as ops of the reference see it."""
    return SimpleNamespace(
        rows=rows, past=past, position=torch.tensor([past]), start=start
    )


def began(start: list[int] | None) -> torch.Tensor | None:
    """The first slot of each row that is no padding."""
    return None if start is None else torch.tensor(start, dtype=torch.int32)
