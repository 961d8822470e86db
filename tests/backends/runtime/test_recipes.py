"""Recipes: shapes, values, names."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from glmc.backends.runtime.codes import dequant_blocks, dequant_rows
from glmc.backends.runtime.dealt import Padded, of_rank, shard
from glmc.backends.runtime.evaluation import evaluate
from glmc.backends.runtime.recipes import (
    Bind,
    cat,
    names,
    permute,
    renamed,
    slice_,
    stack,
    tensor,
    view,
)
from glmc.backends.runtime.shapes import shape_of

A, B = torch.arange(24.0).view(6, 4), torch.arange(8.0).view(2, 4)
STORED = {"a": A, "b": B, "e.0.w": B, "e.1.w": 2 * B, "e.2.w": 3 * B}
STORED |= {"q.0": B.to(torch.int8), "q.1": B.to(torch.int8)}
STORED |= {"q.0_s": torch.tensor([2.0, 2.0]), "q.1_s": torch.tensor([3.0, 3.0])}
STORED |= {"s": torch.tensor([[5.0]])}
ONE_SCALE = tensor("s", 1, 1)
CASES: list[tuple[Any, torch.Tensor]] = [
    ("a", A),
    (tensor("a", 6, 4), A),
    (cat("a", "b"), torch.cat([A, B])),
    (cat("a", permute("a", 0, 1), dim=1), torch.cat([A, A], 1)),
    (slice_("a", 0, 1, 3), A[1:3]),
    (slice_("a", 1, 3, 4), A[:, 3:]),
    (view("a", 2, 3, 4), A.view(2, 3, 4)),
    (permute("a", 1, 0), A.T),
    # Heads stored as [q k v] each, taken apart.
    (
        view(slice_(view("a", 2, 3, 4), 1, 1, 2), 2, 4),
        A.view(2, 3, 4)[:, 1:2].reshape(2, 4),
    ),
    (stack("e.{x}.w", 3), torch.stack([B, 2 * B, 3 * B])),
    (
        stack(cat(tensor("e.{x}.w", 2, 4), "a"), 2),
        torch.stack([torch.cat([B, A]), torch.cat([2 * B, A])]),
    ),
    (slice_(cat("a", "b"), 0, 5, 7), torch.cat([A, B])[5:7]),
    # Experts in codes, as they are in files of quantised mixtures.
    (
        stack(dequant_rows(tensor("q.{x}", 2, 4), tensor("q.{x}_s", 2), bits=8), 2),
        torch.stack([B * 2, B * 3]),
    ),
    (
        stack(dequant_blocks(tensor("q.{x}", 2, 4), ONE_SCALE, block=(2, 4)), 2),
        torch.stack([B * 5, B * 5]),
    ),
]


def stored_shape(name: str) -> tuple[int, ...]:
    return tuple(STORED[name].shape)


@pytest.mark.parametrize(("recipe", "expected"), CASES, ids=str)
def test_shape_and_value(recipe: Any, expected: torch.Tensor) -> None:
    assert shape_of(recipe, stored_shape) == tuple(expected.shape)
    assert torch.equal(evaluate(recipe, STORED.__getitem__), expected)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (tensor("a", 4, 6), r"\[6, 4\], \[4, 6\] is needed"),
        (cat("a", view("b", 4, 2)), "do not fit together along dimension 0"),
        (cat("a", "b", dim=1), "do not fit together along dimension 1"),
        (cat("a", "a", dim=2), "do not fit together along dimension 2"),
        (slice_("a", 0, 5, 7), "has no 5:7 in dimension 0"),
        (slice_("a", 2, 0, 1), "in dimension 2"),
        (view("a", 5, 5), r"\[6, 4\] cannot be viewed as \[5, 5\]"),
        (permute("a", 0, 2), "cannot be permuted"),
    ],
    ids=str,
)
def test_steps_that_do_not_fit_say_why(recipe: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        shape_of(recipe, stored_shape)


def test_views_are_not_copied() -> None:
    made = evaluate(permute(slice_("a", 0, 1, 3), 1, 0), STORED.__getitem__)
    assert made.untyped_storage().data_ptr() == A.untyped_storage().data_ptr()


def test_names_in_order_and_renamed() -> None:
    experts = stack(dequant_rows(tensor("e.{x}", 1), tensor("s.{x}", 1), bits=8), 2)
    assert list(names(renamed(experts, str.upper))) == ["E.0", "S.0", "E.1", "S.1"]
    recipe = cat(slice_("x", 0, 0, 1), permute(view("y", 2, 1), 1, 0), tensor("z", 1))
    assert list(names(recipe)) == ["x", "y", "z"]
    assert list(names(renamed(recipe, str.upper))) == ["X", "Y", "Z"]
    assert renamed(recipe, str) == recipe


def test_a_bind_of_layers_is_one_in_each() -> None:
    bind = Bind("layers.{i}.w", cat("h.{i}.a", "h.{i}.b"), (8, 4), layers=(0, 3))
    assert list(bind.each()) == [
        Bind("layers.0.w", cat("h.0.a", "h.0.b"), (8, 4)),
        Bind("layers.3.w", cat("h.3.a", "h.3.b"), (8, 4)),
    ]
    alone = Bind("embed", "e", (2,))
    assert list(alone.each()) == [alone]


def test_recipes_and_binding_import_no_torch() -> None:
    code = (
        "import sys; import glmc.backends.runtime.binding;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_parts_of_ranks_are_filled_up_where_they_are_smaller(rank: int) -> None:
    """Seven rows for four ranks: the last has one, and one of zeros."""
    rows = torch.arange(21.0).view(7, 3)
    found = of_rank(shard(tensor("w", rows.shape), 0, 2, 7), rank)
    assert isinstance(found, Padded) == (rank == 3)
    got = evaluate(found, {"w": rows}.__getitem__)
    filled = torch.cat([rows, torch.zeros(1, 3)])
    assert torch.equal(got, filled[2 * rank : 2 * rank + 2])
