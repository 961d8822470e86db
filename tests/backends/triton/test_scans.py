"""Kernels of scans of channels against the reference, interpreted: any lengths, widths
and calls, on both sides of a chunk's border."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from glmc.backends.torch import ops as reference
from support.scanning import Channels, lru, selective, wkv

Interpreted = Callable[..., ModuleType]

SCANS = {
    "selective": selective(20, 12, 1),
    "selective, all of it": selective(18, 16, 3, "bias", "opened"),
    "one number": selective(7, 1, 1, "bias"),
    "lru": lru(40),
    "lru, opened": lru(7, "opened"),
    "wkv": wkv(40),
    "wkv, opened": wkv(7, "opened"),
}
CALLS = ((1, 1, 1), (3, 1), (4, 4, 1), (9,), (5, 6))
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}


def small(module: ModuleType) -> ModuleType:
    """Chunks of 4 tokens, which tests cross often; programs of few channels."""
    for name in ("SELECTIVE", "LRU", "WKV"):
        for tile, chunk in zip(getattr(module, name, ()), (1, 4), strict=False):
            tile |= {"CHUNK": chunk, "COLS": 8}
    return module


def differ(
    module: ModuleType,
    scan: Channels,
    calls: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    start: list[int] | None = None,
) -> float:
    """The largest difference of results and states; above 1, relatively."""
    got, kept = scan.read(getattr(module, scan.op), calls, dtype, start)
    want, after = scan.read(getattr(reference, scan.op), calls, dtype, start)
    assert got.dtype == want.dtype
    assert kept.dtype == after.dtype == torch.float32
    real = torch.ones(want.shape[:2], dtype=torch.bool)
    for row, first in enumerate(start or ()):
        real[row, :first] = False
    pairs = ((got[real].float(), want[real].float()), (kept, after))
    return max(float(((a - b).abs() / b.abs().clamp(min=1)).max()) for a, b in pairs)


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("name", SCANS)
def test_a_scan(interpreted: Interpreted, name: str, calls: tuple[int, ...]) -> None:
    scan = SCANS[name]
    module = small(interpreted(scan.use))
    assert differ(module, scan, calls) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("start", [[3, 0], [0, 6]])
@pytest.mark.parametrize("name", ["selective, all of it", "lru", "wkv"])
def test_padding(interpreted: Interpreted, name: str, start: list[int]) -> None:
    """Rows begin within a chunk, or in the second; then a token, then a prompt."""
    scan = SCANS[name]
    module = small(interpreted(scan.use))
    assert differ(module, scan, (7, 1, 5), start=start) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("name", ["selective, all of it", "lru, opened", "wkv, opened"])
def test_half_precision(interpreted: Interpreted, name: str) -> None:
    """With the tiles that builds have."""
    scan = SCANS[name]
    module = interpreted(scan.use)
    assert differ(module, scan, (18, 1), torch.float16) < TOLERANCE[torch.float16]


def test_what_hardly_decays_keeps_its_digits(interpreted: Interpreted) -> None:
    """The share of an input is a root of 1 - exp(x), for x of any size."""
    module = interpreted(lru(4).use)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LRU", ({"CHUNK": 1, "COLS": 32},) * 2)
        x, i = torch.ones(2, 1, 4), torch.full((2, 1, 4), 20.0)
        rate = torch.tensor([-20.0, -12.0, -3.0, 3.0])
        for r in (-4.0, 0.0, 4.0):
            made = []
            for op in (module.lru_scan, reference.lru_scan):
                state = lru(4)
                read = state.read(
                    lambda _x, _i, _r, _rate, kept, op=op, r=r: op(
                        x, i, torch.full_like(x, r), rate, kept
                    ),
                    (1, 1),
                    torch.float32,
                )
                made.append(read[0])
            torch.testing.assert_close(made[0], made[1], rtol=3e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("selective", "written * later_left +", "written +"),
        ("selective", "place == CHUNK - 1", "place == 0"),
        ("selective, all of it", "+ bent[None, :]", ""),
        ("lru", "each = left * vector[None, :] + written", "each = written"),
        ("lru", "token == first", "token == 0"),
        ("wkv", "most = tl.maximum(far, later_top)", "most = far"),
        ("wkv", "- 1)[:, None]\n", "- 2)[:, None]\n"),
        ("wkv, opened", "tl.sigmoid(opening)", "opening"),
    ],
)
def test_control_a_wrong_line_shows(
    interpreted: Interpreted, name: str, old: str, new: str
) -> None:
    def edit(text: str) -> str:
        assert old in text, old
        return text.replace(old, new)

    module = small(interpreted(SCANS[name].use, edit=edit))
    assert not differ(module, SCANS[name], (6, 3)) < 1e-3
