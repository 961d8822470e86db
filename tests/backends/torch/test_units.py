"""Recurrent units against loops over tokens, in one call and in several."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmc.backends.torch import ops

CLOSE = 3e-5
TOKENS = 150
Found = tuple[torch.Tensor, ...]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kept(*sizes: int, start: Any = None) -> Any:
    """A state of zeros, as an op is given it."""
    position = torch.tensor([0], dtype=torch.int32)
    return SimpleNamespace(
        rows=torch.zeros(sizes), past=0, position=position, start=start
    )


def went(tokens: int, *states: Any) -> None:
    """Move states on, as the cache does after a call."""
    for state in states:
        state.past += tokens
        state.position += tokens


def lru_looped(x: Any, i: Any, r: Any, rate: Any) -> torch.Tensor:
    x, i, r, rate = (each.double() for each in (x, i, r, rate))
    h, made = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        a = torch.exp(-8 * torch.sigmoid(r[:, t]) * torch.log1p(rate.exp()))
        share = torch.sqrt(1 - a * a) if t else torch.ones_like(a)
        h = a * h + share * torch.sigmoid(i[:, t]) * x[:, t]
        made.append(h)
    return torch.stack(made, 1)


def wkv_looped(k: Any, v: Any, rate: Any, first: Any) -> torch.Tensor:
    """Every weight by its definition, nothing relative to anything."""
    k, v, fall, first = k.double(), v.double(), rate.double().exp(), first.double()
    made = []
    for t in range(v.shape[1]):
        away = (t - 1 - torch.arange(t, dtype=torch.float64))[:, None]
        weights = torch.exp(k[:, :t] - away * fall)
        own = torch.exp(k[:, t] + first)
        total = (weights * v[:, :t]).sum(1) + own * v[:, t]
        made.append(total / (weights.sum(1) + own))
    return torch.stack(made, 1)


def memory_looped(q: Any, k: Any, v: Any, i: Any, f: Any) -> torch.Tensor:
    q, k, v, i, f = (each.double() for each in (q, k, v, i, f))
    kept = torch.zeros(*v.shape[::2], k.shape[3], v.shape[3], dtype=torch.float64)
    keys = torch.zeros(*v.shape[::2], k.shape[3], dtype=torch.float64)
    most = torch.ones(*v.shape[::2], 1, dtype=torch.float64)
    made = []
    for t in range(v.shape[1]):
        left, gain = torch.sigmoid(f[:, t]), i[:, t].exp()
        kept = left[..., None, None] * kept
        kept += gain[..., None, None] * k[:, t, :, :, None] * v[:, t, :, None]
        keys = left[..., None] * keys + gain[..., None] * k[:, t]
        asked = 0.5 * q[:, t]
        y = torch.einsum("bhk,bhkv->bhv", asked, kept)
        n = (asked * keys).sum(-1, keepdim=True)
        most = torch.maximum(left[..., None] * most, gain[..., None])
        made.append(y / (n.abs().clamp(min=1) + 1e-3 * most))
    return torch.stack(made, 1).flatten(2)


RATE, FIRST = noise(6, seed=8), noise(6, seed=9)


def _lru(given: Found, state: Any, _: Any) -> torch.Tensor:
    return ops.lru_scan(*given, RATE, state)[0]


def _wkv(given: Found, state: Any, _: Any) -> torch.Tensor:
    return ops.wkv_scan(*given, RATE - 2, FIRST, state)[0]


def _memory(given: Found, state: Any, most: Any) -> torch.Tensor:
    return ops.memory_scan(*given, state, most, scale=0.5, eps=1e-3)


def _given(name: str) -> Found:
    """The operands of a scan that have tokens."""
    if name == "memory":
        wide = [noise(2, TOKENS, 3, n, seed=s) for s, n in enumerate((4, 4, 5))]
        return (*wide, *(2 * noise(2, TOKENS, 3, seed=s) for s in (5, 6)))
    count = 3 if name == "lru" else 2
    return tuple(2 * noise(2, TOKENS, 6, seed=s) for s in range(count))


SIZES = {"lru": (2, 6), "wkv": (2, 3, 6), "memory": (2, 3, 4, 6)}
SCANS: dict[str, Callable[..., torch.Tensor]] = {
    "lru": _lru,
    "wkv": _wkv,
    "memory": _memory,
}


def wanted(name: str, given: Found) -> torch.Tensor:
    if name == "lru":
        return lru_looped(*given, RATE)
    if name == "wkv":
        return wkv_looped(*given, RATE - 2, FIRST)
    return memory_looped(*given)


def found(name: str, given: Found, calls: tuple[int, ...], start: Any = None) -> Any:
    states = kept(*SIZES[name], start=start), kept(2, 3, start=start)
    made, at = [], 0
    for tokens in calls:
        part = tuple(x[:, at : at + tokens] for x in given)
        made.append(SCANS[name](part, *states))
        went(tokens, *states)
        at += tokens
    return torch.cat(made, 1)


def apart(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference; of what is above 1, relatively."""
    return ((got - want).abs() / want.abs().clamp(min=1)).max().item()


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("calls", [(150,), (1, 70, 1, 1, 77), (149, 1)])
def test_scans(name: str, calls: tuple[int, ...]) -> None:
    given = _given(name)
    want = wanted(name, given)
    assert apart(found(name, given, calls), want) < CLOSE
    turned = tuple(x.flip(1) for x in given)
    assert apart(found(name, turned, calls), want) > 0.1


@pytest.mark.parametrize("name", SCANS)
def test_padding_leaves_a_state_alone(name: str) -> None:
    """A row that begins later gives what it gives alone, whatever padding holds."""
    given = _given(name)
    start = torch.tensor([9, 0], dtype=torch.int32)
    got = found(name, given, (100, 50), start=start)
    alone = wanted(name, tuple(x[:1, 9:] for x in given))
    assert apart(got[:1, 9:], alone) < CLOSE
    assert apart(got[1:], wanted(name, given)[1:]) < CLOSE
    late = found(name, given, (100, 50), start=start + 1)
    assert apart(late[:1, 9:], alone) > 1e-3


def test_exponents_that_would_overflow() -> None:
    """Weights of e^200 are means all the same."""
    k, v = 200 * torch.sign(noise(2, TOKENS, 6)), noise(2, TOKENS, 6, seed=1)
    got = ops.wkv_scan(k, v, RATE, FIRST, kept(2, 3, 6))[0]
    assert got.isfinite().all()
    assert (got - wkv_looped(k, v, RATE, FIRST)).abs().max() < 1e-4


def test_the_token_before() -> None:
    x, state = noise(2, 9, 5), kept(2, 5)
    want = F.pad(x, (0, 0, 1, -1))
    made = []
    for at, tokens in ((0, 4), (4, 1), (5, 4)):
        made.append(ops.token_shift(x[:, at : at + tokens], state)[0])
        went(tokens, state)
    assert torch.equal(torch.cat(made, 1), want)
    padded = kept(2, 5, start=torch.tensor([3, 0], dtype=torch.int32))
    got = ops.token_shift(x, padded)[0]
    assert not got[0, :4].any()
    assert torch.equal(got[0, 4:], want[0, 4:])
    assert torch.equal(got[1], want[1])


def test_blocks_and_blends() -> None:
    x, weight, bias = noise(2, 5, 12), noise(3, 4, 2, seed=1), noise(3, 2, seed=2)
    got = ops.block_linear(x, weight, bias=bias)
    whole = torch.block_diag(*weight)
    assert torch.allclose(got, x @ whole + bias.flatten(), atol=1e-6)
    assert torch.allclose(ops.block_linear(x, weight), x @ whole, atol=1e-6)
    share = noise(12, seed=3)
    y = noise(2, 5, 12, seed=4)
    assert torch.allclose(ops.blend(x, y, share), torch.lerp(y, x, share), atol=1e-6)
    assert not torch.allclose(ops.blend(y, x, share), ops.blend(x, y, share))


def test_a_gated_norm_that_takes_the_mean_off() -> None:
    x, z, weight = noise(2, 5, 12), noise(2, 5, 12, seed=1), noise(12, seed=2)
    how = {"eps": 1e-2, "fn": "sigmoid", "groups": 3}
    got = ops.gated_norm(x, z, weight, **how, centred=True)
    normed = F.layer_norm(x.view(2, 5, 3, 4), (4,), eps=1e-2).flatten(2)
    assert torch.allclose(got, normed * weight * torch.sigmoid(z), atol=1e-6)
    assert not torch.allclose(ops.gated_norm(x, z, weight, **how), got, atol=0.1)
