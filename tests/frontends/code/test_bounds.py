"""Sides of the bounds that tensors of whole numbers are held against."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.frontends.code.bounds import met, sliced

ROW = torch.arange(10)
SQUARE = torch.ones(4, 5)
ONE_SIDE, BOTH, NONE = 1, 2, 0


@pytest.mark.parametrize(
    ("name", "given", "named", "sides"),
    [
        ("lt", (ROW, 4096), {}, ONE_SIDE),
        ("le", (ROW, ROW[:, None] - 4096), {}, ONE_SIDE),
        ("gt", (ROW, 5), {}, BOTH),
        ("gt", (ROW, 0), {}, NONE),
        ("gt", (ROW.float(), 4096), {}, NONE),
        ("minimum", (ROW, torch.tensor(4096)), {}, ONE_SIDE),
        ("tril", (SQUARE, -4096), {}, ONE_SIDE),
        ("tril", (SQUARE,), {"diagonal": -2}, BOTH),
        ("triu", (SQUARE, 1), {}, NONE),
        ("clamp", (ROW,), {"max": 4096}, ONE_SIDE),
        ("clamp", (ROW, 0, 5), {}, BOTH),
        ("clamp", (ROW,), {"min": 0}, NONE),
        ("floordiv", (ROW, 4096), {}, ONE_SIDE),
        ("mod", (ROW, 4), {}, BOTH),
    ],
)
def test_the_sides_that_were_met(
    name: str, given: tuple[Any, ...], named: dict[str, Any], sides: int
) -> None:
    assert len(met(name, given, named)) == sides


@pytest.mark.parametrize(
    ("key", "sides"),
    [
        ((slice(None), slice(-4096, None)), ONE_SIDE),
        ((..., slice(-4096, None)), ONE_SIDE),
        ((..., slice(-4, None)), BOTH),
        ((0, slice(None, 4)), NONE),
        (ROW[:4] > 2, NONE),
    ],
)
def test_a_slice_of_the_last_few(key: Any, sides: int) -> None:
    assert len(sliced((4, 9), key)) == sides
