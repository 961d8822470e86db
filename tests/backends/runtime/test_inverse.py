"""Recipes are followed backwards: parts, slices, views, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from glmc.backends.runtime.evaluation import evaluate
from glmc.backends.runtime.inverse import Inverse
from glmc.backends.runtime.recipes import (
    Bind,
    Recipe,
    cat,
    permute,
    slice_,
    stack,
    tensor,
    view,
)

SOURCE = {
    "a": torch.arange(24.0).view(4, 6),
    "b": torch.arange(100.0, 112.0).view(2, 6),
    "e.0": torch.arange(6.0).view(2, 3),
    "e.1": torch.arange(6.0, 12.0).view(2, 3),
}


class Source:
    """A checkpoint in memory."""

    def read(self, name: str) -> torch.Tensor:
        return SOURCE[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(SOURCE[name].shape)


def inverse(values: dict[str, torch.Tensor], *binds: Bind) -> Any:
    source: Any = Source()
    return Inverse(binds, values, source, None)


A, B = tensor("a", 4, 6), tensor("b", 2, 6)
RECIPES: dict[str, Recipe] = {
    "whole": "a",
    "joined": cat(A, B),
    "transposed": permute(A, 1, 0),
    "joined across": cat(permute(A, 1, 0), permute(B, 1, 0), dim=1),
    "interleaved": view(permute(view(A, 2, 2, 6), 1, 0, 2), 4, 6),
    "stacked": stack(permute(tensor("e.{x}", 2, 3), 1, 0), 2),
    "a part": slice_(A, 0, 1, 3),
    "columns of a view": slice_(view(A, 2, 12), 1, 3, 8),
    "turned parts": cat(slice_(A, 0, 2, 4), slice_(A, 0, 0, 2)),
    "a part of a part": slice_(permute(slice_(A, 1, 2, 6), 1, 0), 0, 1, 3),
}


def tensors(made: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, made.tensor(name)) for name in SOURCE)


@pytest.mark.parametrize("kind", RECIPES)
def test_there_and_back(kind: str) -> None:
    recipe = RECIPES[kind]
    value = evaluate(recipe, SOURCE.__getitem__).clone()
    bind = Bind("p", recipe, tuple(value.shape))
    for name, found in tensors(inverse({"p": value}, bind)):
        assert torch.equal(found, SOURCE[name])
    changed = value * 2 + 1000
    written = dict(tensors(inverse({"p": changed}, bind)))
    assert torch.equal(evaluate(recipe, written.__getitem__), changed)
    # What the parameter does not hold is as it was.
    count = sum(int((written[name] != SOURCE[name]).sum()) for name in SOURCE)
    assert count == value.numel()


def test_parameters_that_contradict_each_other() -> None:
    binds = Bind("p", "a", (4, 6)), Bind("q", slice_(A, 0, 0, 1), (1, 6))
    p, q = SOURCE["a"] + 1, SOURCE["a"][:1] + 1
    assert torch.equal(inverse({"p": p, "q": q}, *binds).tensor("a"), p)
    with pytest.raises(ValueError, match=r"q has other values than the one before"):
        inverse({"p": p, "q": q + 1}, *binds).tensor("a")
