"""The bytes of files that a rank asks for are those that its part is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from glmc.backends.runtime import reading_ahead
from glmc.backends.runtime.checkpoint import Checkpoint
from glmc.backends.runtime.dealt import of_rank, shard
from glmc.backends.runtime.reading_ahead import PAGE, Bounds, runs, want, window
from glmc.backends.runtime.recipes import Recipe, Slice, Tensor, View, cat


@pytest.mark.parametrize(
    ("shape", "bounds"),
    [
        ((8, 6000), [(2, 5), (0, 6000)]),  # rows: one run
        ((5, 6000), [(0, 5), (3000, 6000)]),  # columns: one of each row
        ((3, 4, 5000), [(1, 3), (1, 2), (0, 5000)]),
        ((3, 4, 5000), [(0, 3), (2, 4), (0, 2500)]),
        ((6,), [(2, 4)]),
        ((), []),
    ],
)
def test_runs_are_the_bytes_of_a_part(shape: tuple[int, ...], bounds: Bounds) -> None:
    cells = np.arange(int(np.prod(shape)) * 2).reshape(*shape, 2)
    part = cells[tuple(slice(*bound) for bound in bounds)].ravel()
    covered = np.zeros(cells.size, dtype=bool)
    found = list(runs(shape, bounds, 16))
    for begin, end in found:
        covered[begin:end] = True
    assert covered[part].all()
    between = np.diff(part) - 1
    assert covered.sum() == part.size + between[(between > 0) & (between < PAGE)].sum()
    assert len(found) == 1 + (between >= PAGE).sum()


def test_near_columns_are_asked_for_at_once() -> None:
    assert list(runs((4, 100), [(0, 4), (0, 50)], 16)) == [(0, 700)]


class Headers(Checkpoint):
    """A checkpoint of headers alone."""

    def __init__(self) -> None:
        pass

    def shape(self, name: str) -> tuple[int, ...]:
        return (8, 4)


@pytest.mark.parametrize(
    ("recipe", "bounds"),
    [
        (Tensor("w", (8, 4)), [(0, 8), (0, 4)]),
        (Slice(Slice("w", 0, 2, 8), 0, 1, 3), [(3, 5), (0, 4)]),
        (of_rank(shard("w", 1, 2, 4), 1), [(0, 8), (2, 4)]),
    ],
)
def test_a_window_is_a_part_of_one_tensor(recipe: Recipe, bounds: Bounds) -> None:
    assert window(recipe, Headers()) == ("w", bounds)


def test_what_is_turned_has_no_window() -> None:
    assert window(Slice(View("w", (4, 8)), 0, 0, 1), Headers()) is None


def test_a_rank_asks_for_its_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {name: torch.randn(64, 8192) for name in "qk"}
    save_file(weights, tmp_path / "model.safetensors")
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        reading_ahead.os,
        "posix_fadvise",
        lambda _, begin, size, __: asked.append((begin, begin + size)),
    )
    parts = [
        of_rank(shard(Tensor(name, (64, 8192)), 1, 4096, 8192), 1) for name in "qk"
    ]
    checkpoint = Checkpoint(tmp_path)
    want(cat(*parts, dim=0), checkpoint)
    raw = (tmp_path / "model.safetensors").read_bytes()
    starts = [begin for begin, end in asked if end - begin == 1]
    assert starts == [checkpoint.headers[name].offset for name in "qk"]
    parts_asked = [bounds for bounds in asked if bounds[0] not in starts]
    told = b"".join(raw[slice(*bounds)] for bounds in parts_asked)
    wanted = b"".join(weights[name][:, 4096:].numpy().tobytes() for name in "qk")
    assert told == wanted
