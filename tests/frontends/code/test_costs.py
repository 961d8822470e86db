"""Costs of ops, by hand: elements written and elements touched, before an op runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glmc.frontends.code import costs, kinds, operators, strings
from glmc.frontends.code.limits import Limits


def t(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(sizes, dtype=dtype)


def meta(*sizes: int) -> torch.Tensor:
    return torch.empty(sizes, device="meta", dtype=torch.int64)


LONG = torch.tensor([1, 4, 2])
NOTHING = torch.zeros(0, dtype=torch.int64)
Case = tuple[Callable[..., tuple[int, int]], list[Any], dict[str, Any], int, int]
CASES: list[Case] = [
    (costs.like, [t(2, 3), t(4, 1, 3)], {}, 24, 24 + 6 + 12),
    (costs.like, [t(2, 3)], {"other": [t(3), 1]}, 6, 6 + 6 + 3),
    (costs.like, [t(0, 3), t(1)], {}, 0, 1),
    (costs.like, [1], {}, 1, 1),
    (costs.many, [t(2, 3)], {}, 12, 16 * 12),
    (costs.view, [t(9)], {}, 32, 1),
    (costs.pieces, [t(2, 7)], {}, 32 * 7, 7),
    (costs.pieces, [t()], {}, 32, 1),
    (costs.joined, [[t(2, 3), t(4)]], {"out": t(1)}, 11, 22),
    (costs.sizes, [2, 3], {}, 6, 6),
    (costs.sizes, [(2, -3)], {"size": [4, True]}, 24, 24),
    (costs.sizes, [torch.tensor(5)], {}, 5, 5),
    (costs.filled, [(2, 3), 7], {}, 6, 6),
    (costs.new_sizes, [t(9), 2, 3], {}, 6, 6),
    (costs.new_filled, [t(9), (2, 3), 7], {}, 6, 6),
    (costs.square, [3], {}, 9, 9),
    (costs.square, [3, 4], {}, 12, 12),
    (costs.square, [], {}, 1, 1),
    (costs.counted, [7], {}, 8, 8),
    (costs.counted, [3, 7], {}, 5, 5),
    (costs.counted, [3, 9, 2], {}, 4, 4),
    (costs.counted, [9, 3, -2], {}, 4, 4),
    (costs.counted, [], {"start": 1, "end": 9, "step": 4}, 3, 3),
    (costs.counted, [torch.tensor(7)], {}, 8, 8),
    (costs.counted, [], {}, 1, 1),
    (costs.counted, [0, 1, 0], {}, 1 + int(1e30), 1 + int(1e30)),
    (costs.spaced, [0, 1, 5], {}, 5, 5),
    (costs.spaced, [0, 1], {"steps": 7}, 7, 7),
    (costs.spaced, [0, 1], {}, 100, 100),
    (costs.literal, [[1, [2, 3]]], {}, 1 + 2 + 2, 8 * 5),
    (costs.literal, [[t(4), 1]], {}, 1 + 4 + 1, 8 * 6),
    (costs.repeated, [t(3), 2, 4], {}, 24, 24),
    (costs.repeated, [t(3), (2, -4)], {}, 24, 24),
    (costs.repeated, [t(3), 0], {}, 3, 3),
    (costs.interleaved, [t(3), 2], {}, 6, 9),
    (costs.interleaved, [t(3)], {"repeats": -2}, 6, 9),
    (costs.interleaved, [t(3), LONG], {}, 12, 15),
    (costs.interleaved, [LONG], {}, 7, 8),
    (costs.interleaved, [t(3), meta(3)], {}, 3, 3),
    (costs.interleaved, [meta(3)], {}, 1, 1),
    (costs.hot, [LONG, 9], {}, 27, 27),
    (costs.hot, [LONG], {}, 15, 15),
    (costs.hot, [LONG], {"num_classes": -1}, 15, 15),
    (costs.hot, [NOTHING], {}, 0, 0),
    (costs.hot, [meta(3)], {}, 3, 3),
    (costs.padded, [t(2, 3), (1, 2)], {}, 12, 24),
    (costs.padded, [t(2, 3)], {"pad": (1, -2, 3, 0)}, 30, 60),
    (costs.padded, [t(2), (0, 1, 5, 5)], {}, 3, 6),
    (costs.matmul, [t(2, 3), t(3, 4)], {}, 8, 24 + 6 + 12),
    (costs.matmul, [t(5, 1, 2, 3), t(7, 3, 4)], {}, 280, 840 + 30 + 84),
    (costs.matmul, [t(3), t(3)], {}, 1, 3 + 3 + 3),
    (costs.matmul, [t(2, 4), t(2, 3), t(3, 4)], {}, 8, 24 + 6 + 12),
    (costs.outer, [t(3), t(4)], {}, 12, 12),
    (costs.grid, [t(3), t(4)], {}, 24, 24),
    (costs.linear, [t(5, 2, 3), t(4, 3)], {}, 40, 120),
    (costs.linear, [], {"input": t(2, 3), "weight": t(4, 3)}, 8, 24),
    (costs.conv, [t(2, 3, 9), t(4, 3, 5)], {}, 72, 72 * 15),
    (costs.conv, [t(2, 3, 9), t(4, 3, 5), None, 1, 2], {}, 104, 104 * 15),
    (costs.conv, [t(2, 3, 9), t(4, 3, 5)], {"padding": 3}, 120, 120 * 15),
    (costs.attention, [t(2, 3, 4), t(2, 5, 4), t(2, 5, 4)], {}, 30 + 24, 240),
    (costs.embedding, [LONG, t(9, 4)], {}, 12, 24),
    (costs.chosen, [t(2, 3), 1, LONG], {}, 6, 9),
    (costs.chosen, [t(2), 0, LONG], {}, 3, 5),
    (costs.selected, [t(4, 6), 0, LONG], {}, 18, 36),
    (costs.selected, [t(0, 6), 0, LONG], {}, 0, 0),
    (costs.places, [t(2, 3)], {}, 12, 12),
    (costs.places, [t()], {}, 1, 2),
    (costs.bins, [LONG], {}, 5, 8),
    (costs.bins, [LONG, None, 9], {}, 9, 12),
    (costs.bins, [LONG], {"minlength": 9}, 9, 12),
    (costs.bins, [NOTHING], {}, 1, 1),
    (costs.bins, [meta(3)], {}, 1, 4),
    (costs.summed, ["ij,jk->ik", t(2, 3), t(3, 4)], {}, 12 + 24 // 2, 24),
    (costs.summed, ["...ij,jk", t(5, 2, 3), t(3, 4)], {}, 30 + 120 // 2, 120),
    (costs.summed, ["i", t(3)], {}, 3 + 1, 3),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_costs(case: Case) -> None:
    cost, given, named, made, work = case
    assert cost(given, named) == (made, work)


@pytest.mark.parametrize(
    ("index", "cost"),
    [
        (0, (32, 1)),
        ((slice(None), None, 2), (32, 1)),
        (LONG[:1], (20, 20)),
        ([0, 0], (40, 40)),
        ((LONG[:1], [0, 1, 2]), (15, 15)),
        ((slice(None), LONG[:1]), (15, 15)),
        ((..., LONG[:1]), (60, 60)),
        (t(3, 4, dtype=torch.bool), (60, 60)),
        ((None, LONG[:1]), (20, 20)),
        ((True, LONG[:1]), (20, 20)),
    ],
    ids=str,
)
def test_costs_of_an_index(index: Any, cost: tuple[int, int]) -> None:
    assert costs.indexed(t(3, 4, 5), index) == cost


class Meter:
    """A meter that notes what it was told of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda size: self.told.append((name, size))


def machine() -> Any:
    return SimpleNamespace(limits=Limits(), meter=Meter(), host=lambda *given: None)


@pytest.mark.parametrize(
    ("name", "left", "right", "bits"),
    [
        ("pow", 2, 513, 2 * 513),
        ("pow", 2, 512, None),
        ("pow", 0, 1025, 1025),
        ("pow", 1 << 1020, -1, None),
        ("lshift", 1, 1024, 1025),
        ("lshift", 1, 1023, None),
        ("lshift", 1 << 1023, -5, None),
        ("lshift", 1 << 1024, -5, 1025),
        ("mul", 1 << 511, 1 << 512, 512 + 513),
        ("mul", 1 << 511, 1 << 511, None),
        ("add", 1 << 511, 1 << 512, 512 + 513),
        ("rshift", 1 << 1024, 3, 1025 + 2),
        ("sub", 3, 4, None),
    ],
)
def test_integers_are_counted_before_they_are_made(
    name: str, left: int, right: int, bits: int | None
) -> None:
    one = machine()
    operators._integers(one, name, left, right)
    assert one.meter.told == ([] if bits is None else [("number", bits)])


@pytest.mark.parametrize(
    ("name", "left", "right", "told"),
    [
        ("mul", "ab", 3, [("string", 6)]),
        ("mul", 3, "ab", [("string", 6)]),
        ("mul", "ab", -3, [("string", 0)]),
        ("mul", [1, 2], 3, [("items", 6)]),
        ("mul", 3, (1, 2), [("items", 6)]),
        ("add", "ab", "c", [("string", 3)]),
        ("add", [1], [2, 3], [("items", 3)]),
        ("or_", {1}, {2, 3}, [("items", 3)]),
        ("or_", {1: 1}, {2: 2}, [("items", 2)]),
        ("add", (1,), (2, 3), [("items", 3)]),
        ("add", [1], "ab", [("items", 1)]),
        ("add", [1], 2, []),
        ("add", "ab", 2, []),
        ("mod", "ab", 3, []),
        ("add", 3, "ab", []),
        ("and_", "ab", 3, []),
    ],
)
def test_sizes_are_counted_before_they_are_made(
    name: str, left: Any, right: Any, told: list[tuple[str, int]]
) -> None:
    one = machine()
    operators._sizes(one, name, left, right)
    assert one.meter.told == told


def test_texts_are_counted_before_they_are_made() -> None:
    for old, new, size in (
        ("b", "xyz", 4 + 2 * 3),
        ("", "xyz", 4 + 5 * 3),
        ("q", "x", 4),
    ):
        one = machine()
        assert strings._replace(one, "abcb", old, new) == "abcb".replace(old, new)
        assert one.meter.told == [("string", size)]
    one = machine()
    assert strings._replace(one, "abc", "", "xy") == "xyaxybxycxy"
    assert one.meter.told == [("string", 3 + 4 * 2)]
    for digits, told in ((300, []), (301, [("number", 4 * 301)])):
        one = machine()
        assert kinds._int(one, "9" * digits) == int("9" * digits)
        assert one.meter.told == told
