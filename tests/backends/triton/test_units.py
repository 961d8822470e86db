"""Kernels of a scan alone and of recurrent units, interpreted against the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch

from glmc.backends.runtime.state import PerRow
from glmc.backends.torch import ops as reference
from glmc.backends.triton.uses import OpUse
from support.kernels import elementwise_use, random
from support.mixing import emptied
from support.scanning import block_use, memory_use, scan_use, shift_use, steady_use

Interpreted = Callable[..., ModuleType]
TOLERANCE = {torch.float32: 4e-5, torch.float16: 3e-2}


def in_chunks(module: ModuleType) -> ModuleType:
    """Read prompts of float32 in chunks too."""
    for name, table in vars(module).items():
        if name.startswith("SCAN"):
            table[4] = (table[4][0], table[2][1])
    return module


def scanned(
    op: Any,
    use: OpUse,
    calls: Sequence[int],
    dtype: torch.dtype,
    start: Sequence[int] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads tokens in some calls: the results, and the state after them."""
    heads, key, value = use.sizes("state")
    cache = emptied(
        {"s": PerRow(heads, key, value, dtype=torch.float32)}, 2, dtype, start
    )
    state: Any = cache.own[0]
    made = []
    for seed, count in enumerate(calls):
        sizes = {"q": (use.size("k", 2), key), "k": (use.size("k", 2), key)}
        sizes |= {"v": (heads, value), "g": tuple(map(int, use.shapes["g"][2:]))}
        wide = {
            name: random(2, count, *size, dtype=dtype, seed=9 * seed + at)
            for at, (name, size) in enumerate(sizes.items())
        }
        wide["g"] = -wide["g"].float().abs()
        more: dict[str, Any] = {"scale": 0.3}
        if "beta" in use.operands:
            wide["k"] = torch.nn.functional.normalize(wide["k"], dim=-1)
            given = random(2, count, heads, dtype=dtype, seed=seed + 80)
            more["beta"] = torch.sigmoid(given)
        made.append(op(*wide.values(), state, **more)[0])
        cache.length += count
    return torch.cat(made, 1), state.rows


SCANS = {
    "steady": scan_use(4, 2, 20, 24),
    "corrected": scan_use(2, 2, 16, 24, beta=True),
    "by channel": scan_use(2, 2, 20, 16, keyed=True),
    "by channel, corrected": scan_use(2, 1, 20, 16, keyed=True, beta=True),
}


def apart(
    module: ModuleType,
    use: OpUse,
    calls: Sequence[int],
    dtype: torch.dtype,
    start: list[int] | None = None,
) -> float:
    got, kept = scanned(module.scan, use, calls, dtype, start)
    want, after = scanned(reference.scan, use, calls, dtype, start)
    assert got.dtype == want.dtype
    return max((got - want).abs().max().item(), (kept - after).abs().max().item())


@pytest.mark.parametrize("calls", [(1, 1), (5, 1), (16, 1), (33, 2)])
@pytest.mark.parametrize("name", SCANS)
def test_a_scan_alone(
    interpreted: Interpreted, name: str, calls: tuple[int, ...]
) -> None:
    use = SCANS[name]
    module = interpreted(use)
    # A state is made before that the other reading replaces.
    for read in (module, in_chunks(module)):
        assert apart(read, use, calls, torch.float32) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("name", ["steady", "by channel, corrected"])
def test_padding(interpreted: Interpreted, name: str) -> None:
    """Padding leaves the state at zero, and what it makes is zero."""
    module, dtype = interpreted(SCANS[name]), torch.float32
    for read in (module, in_chunks(module)):
        assert apart(read, SCANS[name], (19, 1), dtype, [7, 0]) < TOLERANCE[dtype]


def test_half_precision(interpreted: Interpreted) -> None:
    use, dtype = SCANS["steady"], torch.float16
    assert apart(interpreted(use), use, (19, 1), dtype) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("steady", "tl.where(token >= begins, value, 0.0)", "value"),
        ("corrected", "change *= strength", "change *= 1.0"),
        ("by channel", "g = tl.load(g_ + of * KEY", "g = 0.5 * tl.load(g_ + of * KEY"),
    ],
)
def test_control_a_wrong_line_of_a_scan_shows(
    interpreted: Interpreted, name: str, old: str, new: str
) -> None:
    def edit(text: str) -> str:
        assert old in text, old
        return text.replace(old, new)

    module = interpreted(SCANS[name], edit=edit)
    assert apart(module, SCANS[name], (5, 1), torch.float32, [3, 0]) > 1e-3


@pytest.mark.parametrize("rows", [1, 7, 19])
@pytest.mark.parametrize(("parts", "read", "width"), [(4, 10, 10), (3, 70, 90)])
@pytest.mark.parametrize("bias", [False, True])
def test_products_of_parts(
    interpreted: Interpreted, rows: int, parts: int, read: int, width: int, bias: bool
) -> None:
    """Few rows by the kernel, more by the library."""
    module = interpreted(block_use(parts, read, width, bias))
    x = random(1, rows, parts * read, dtype=torch.float32, seed=1)
    weight = random(parts, read, width, dtype=torch.float32, seed=2)
    more = {"bias": random(parts, width, dtype=torch.float32, seed=3)} if bias else {}
    got = module.block_linear(x, weight, **more)
    want = reference.block_linear(x, weight, **more)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("start", [None, [3, 0], [20, 1]])
@pytest.mark.parametrize("calls", [(1, 1, 1), (5, 1, 2), (16, 1), (35, 3)])
def test_the_token_before(
    interpreted: Interpreted, calls: tuple[int, ...], start: list[int] | None
) -> None:
    module, made = interpreted(shift_use(150)), []
    first = None if calls[0] < 5 else start
    for op in (module.token_shift, reference.token_shift):
        cache = emptied({"s": PerRow(150)}, 2, torch.float32, first)
        state: Any = cache.own[0]
        found = []
        for seed, count in enumerate(calls):
            x = random(2, count, 150, dtype=torch.float32, seed=seed)
            found.append(op(x, state)[0])
            cache.length += count
        made.append((torch.cat(found, 1), state.rows))
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])


@pytest.mark.parametrize(("factors", "at"), [(False, 0), (True, 0), (True, 1)])
def test_steady_decays(interpreted: Interpreted, factors: bool, at: int) -> None:
    module = interpreted(steady_use(12, factors, at))
    how: dict[str, Any] = {"heads": 12, "reach": 7.0}
    how |= {"at": at} if at else {}
    how |= {} if factors else {"scale": 0.4}
    x = random(2, 3, 8, dtype=torch.float16, seed=0)
    how |= {"factors": torch.tensor([[[2.0, 0.3]]])} if factors else {}
    got = module.steady_decay(x, **how)
    want = reference.steady_decay(x, **how)
    assert got.dtype == want.dtype == torch.float32
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_caps_factors_and_blends(interpreted: Interpreted) -> None:
    use = elementwise_use("soft_cap", 70, cap=3.0)
    x = 9 * random(2, 3, 70, dtype=torch.float32, seed=0)
    got = interpreted(use).soft_cap(x, cap=3.0)
    torch.testing.assert_close(got, reference.soft_cap(x, cap=3.0))
    shapes: dict[str, Any] = {"x": ("B", "T", 70), "factors": (1, 1, 3)}
    use = OpUse("scale_by_factor", {"at": 2}, frozenset(shapes), shapes)
    factors = torch.tensor([[[1.0, 2.0, 0.3]]])
    got = interpreted(use).scale_by_factor(x, factors, at=2)
    torch.testing.assert_close(got, reference.scale_by_factor(x, factors, at=2))
    shapes = {"x": ("B", "T", 70), "y": ("B", "T", 70), "weight": (70,)}
    module = interpreted(OpUse("blend", {}, frozenset(shapes), shapes))
    y, share = (random(*s, dtype=torch.float32, seed=4) for s in ((2, 3, 70), (70,)))
    want = reference.blend(x, y, share)
    torch.testing.assert_close(module.blend(x, y, share), want, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(module.blend(y, x, share), want, atol=1e-2)


def remembered(
    op: Any, use: OpUse, calls: Sequence[int], start: list[int] | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    heads, key, more = use.sizes("state")
    kept = {"s": PerRow(heads, key, more, dtype=torch.float32)}
    kept["m"] = PerRow(heads, dtype=torch.float32)
    cache = emptied(kept, 2, torch.float32, start)
    state: Any = cache.own[0]
    most: Any = cache.own[1]
    made = []
    for seed, count in enumerate(calls):
        sizes = ((heads, key), (heads, key), (heads, more - 1), (heads,), (heads,))
        wide = [
            (2 if at > 2 else 1)
            * random(2, count, *size, dtype=torch.float32, seed=9 * seed + at)
            for at, size in enumerate(sizes)
        ]
        made.append(op(*wide, state, most, scale=0.3, eps=1e-3))
        cache.length += count
    return torch.cat(made, 1), state.rows, most.rows


@pytest.mark.parametrize("start", [None, [3, 0]])
@pytest.mark.parametrize("calls", [(1, 1, 1), (7, 1, 4)])
@pytest.mark.parametrize("sizes", [(3, 20, 24), (2, 16, 130)])
def test_a_scan_with_exponential_gates(
    interpreted: Interpreted,
    sizes: tuple[int, int, int],
    calls: tuple[int, ...],
    start: list[int] | None,
) -> None:
    use, first = memory_use(*sizes), start if calls[0] > 3 else None
    got = remembered(interpreted(use).memory_scan, use, calls, first)
    want = remembered(reference.memory_scan, use, calls, first)
    for ours, theirs in zip(got, want, strict=True):
        real = torch.ones(2, ours.shape[1], dtype=torch.bool)
        if first and ours.shape[1] == sum(calls):
            real[0, : first[0]] = False
        torch.testing.assert_close(ours[real], theirs[real], atol=1e-4, rtol=1e-4)


def test_control_a_wrong_line_of_gates_shows(interpreted: Interpreted) -> None:
    use = memory_use(3, 20, 24)
    want = remembered(reference.memory_scan, use, (7, 1), None)[0]
    for old, new in (
        ("tl.maximum(far, gain)", "far"),
        ("_moved(-raw, 0.0, None)", "_moved(raw, 0.0, None)"),
        ("gained * key)[", "key)["),
    ):
        module = interpreted(
            use, edit=lambda text, old=old, new=new: text.replace(old, new)
        )
        got = remembered(module.memory_scan, use, (7, 1), None)[0]
        assert not (got - want).abs().max() < 1e-3, old
