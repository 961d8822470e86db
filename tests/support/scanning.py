"""Scans of channels for tests of their kernels: sizes, weights, tokens and states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from glmc.backends.runtime.state import PerRow
from glmc.backends.triton.uses import OpUse
from support.kernels import random
from support.mixing import emptied


@dataclass(frozen=True)
class Channels:
    """A scan's sizes: ``values`` of each token and ``weights`` of each channel, with
    what else is given."""

    op: str
    values: Mapping[str, int]
    weights: Mapping[str, tuple[int, ...]]
    kept: tuple[int, ...]
    given: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        return self.kept[-1] if self.op != "selective_scan" else self.kept[0]

    @property
    def use(self) -> OpUse:
        shapes: dict[str, tuple[int | str, ...]] = {
            name: ("B", "T", count) for name, count in self.values.items()
        }
        shapes |= {**self.weights, "state": self.kept}
        return OpUse(self.op, {}, frozenset([*shapes, *self.given]), shapes)

    def read(
        self,
        op: Any,
        calls: Sequence[int],
        dtype: torch.dtype,
        start: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads tokens in some calls: the results, and the state after them."""
        kept = {"state": PerRow(*self.kept, dtype=torch.float32)}
        cache = emptied(kept, 2, dtype, start)
        state: Any = cache.own[0]
        weights = [
            random(*shape, dtype=torch.float32, seed=50 + at)
            for at, shape in enumerate(self.weights.values())
        ]
        bias = random(self.channels, dtype=torch.float32, seed=60)
        made = []
        for seed, count in enumerate(calls):
            wide = [
                random(2, count, size, dtype=dtype, seed=100 * seed + at)
                for at, size in enumerate(self.values.values())
            ]
            more = {
                "bias": bias,
                "opened": random(2, count, self.channels, dtype=dtype, seed=seed + 70),
            }
            given = {name: more[name] for name in self.given}
            made.append(op(*wide, *weights, state, **given)[0])
            cache.length += count
        return torch.cat(made, 1), state.rows


def selective(channels: int, numbers: int, groups: int, *given: str) -> Channels:
    """selective_scan; ``given`` may be a bias and what opens."""
    shared = groups * numbers
    values = {"v": channels, "step": channels, "k": shared, "q": shared}
    weights = {"a_log": (channels, numbers), "skip": (channels,)}
    return Channels("selective_scan", values, weights, (channels, numbers), given)


def lru(channels: int, *given: str) -> Channels:
    """lru_scan; ``given`` may be what opens."""
    values = dict.fromkeys("xir", channels)
    return Channels("lru_scan", values, {"rate": (channels,)}, (channels,), given)


def wkv(channels: int, *given: str) -> Channels:
    """wkv_scan; ``given`` may be what opens."""
    weights = {"rate": (channels,), "first": (channels,)}
    values = dict.fromkeys("kv", channels)
    return Channels("wkv_scan", values, weights, (3, channels), given)


Shapes = dict[str, tuple[int | str, ...]]


def scan_use(
    groups: int,
    share: int,
    key: int,
    value: int,
    *,
    keyed: bool = False,
    beta: bool = False,
) -> OpUse:
    """scan, of so many heads that share keys; ``keyed`` decays by channel."""
    heads = groups * share
    shapes: Shapes = {
        "q": ("B", "T", groups, key),
        "k": ("B", "T", groups, key),
        "v": ("B", "T", heads, value),
        "g": ("B", "T", heads, *([key] if keyed else [])),
        "state": (heads, key, value),
    }
    given = [*shapes, *(["beta"] if beta else [])]
    return OpUse("scan", {"scale": 0.3}, frozenset(given), shapes)


def block_use(parts: int, read: int, width: int, bias: bool) -> OpUse:
    """block_linear."""
    shapes: Shapes = {"x": ("B", "T", parts * read), "weight": (parts, read, width)}
    given = [*shapes, *(["bias"] if bias else [])]
    return OpUse("block_linear", {}, frozenset(given), shapes)


def shift_use(width: int) -> OpUse:
    """token_shift."""
    shapes: Shapes = {"x": ("B", "T", width), "state": (width,)}
    return OpUse("token_shift", {}, frozenset(shapes), shapes)


def steady_use(heads: int, factors: bool, at: int = 1) -> OpUse:
    """steady_decay, with number ``at`` of the ``factors`` of layers, or a scale."""
    shapes: Shapes = {"x": ("B", "T", 8)}
    attrs: dict[str, Any] = {"heads": heads, "reach": 7.0}
    # As builds say it: attributes that have their defaults are left out.
    attrs |= {"at": at} if factors and at else {}
    attrs |= {} if factors else {"scale": 0.4}
    given = [*shapes, *(["factors"] if factors else [])]
    return OpUse("steady_decay", attrs, frozenset(given), shapes)


def memory_use(heads: int, key: int, value: int) -> OpUse:
    """memory_scan."""
    rows = ("B", "T", heads)
    shapes: Shapes = {"q": (*rows, key), "k": (*rows, key), "v": (*rows, value)}
    shapes |= {"i": rows, "f": rows, "state": (heads, key, value + 1), "most": (heads,)}
    attrs = {"scale": 0.3, "eps": 1e-3}
    return OpUse("memory_scan", attrs, frozenset(shapes), shapes)
