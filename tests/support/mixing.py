"""Mixers for tests of their kernels: sizes, weights, tokens and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import PerRow
from glmc.backends.triton.uses import OpUse
from support.kernels import random


@dataclass(frozen=True)
class Mixer:
    """A mixer's sizes, and what it has."""

    groups: int = 2
    share: int = 2
    key: int = 20
    value: int = 24
    width: int = 4
    keyed: bool = False
    given: tuple[str, ...] = ("dt_bias",)
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def heads(self) -> int:
        return self.groups * self.share

    @property
    def channels(self) -> dict[str, int]:
        keys = self.groups * self.key
        return {"q": keys, "k": keys, "v": self.heads * self.value}

    @property
    def steps(self) -> int:
        return self.heads * (self.key if self.keyed else 1)

    @property
    def use(self) -> OpUse:
        shapes: dict[str, tuple[int | str, ...]] = {"step": ("B", "T", self.steps)}
        for name, count in self.channels.items():
            shapes[name] = ("B", "T", count)
            shapes |= {f"{w}_{name}": (count, self.width) for w in ("conv", "kept")}
        shapes["a_log"] = (self.heads,)
        shapes["state"] = (self.heads, self.key, self.value)
        return OpUse("mix", self.attrs, frozenset([*shapes, *self.given]), shapes)

    def weights(self, dtype: torch.dtype) -> tuple[list[Any], dict[str, Any]]:
        """Weights, the same for all tokens: positional and by name."""
        convs = [
            random(count, self.width, dtype=dtype, seed=n) / 2
            for n, count in enumerate(self.channels.values())
        ]
        wide = {f"bias_{n}": (count, dtype) for n, count in self.channels.items()}
        wide |= {"dt_bias": (self.steps, torch.float32), "norm": (self.value, dtype)}
        wide |= {"skip": (self.heads, torch.float32)}
        more = {
            name: random(count, dtype=kind, seed=at)
            for at, (name, (count, kind)) in enumerate(wide.items(), 5)
            if name in self.given
        }
        return [*convs, random(self.heads, dtype=torch.float32, seed=4) / 2], more

    def tokens(self, count: int, rows: int, dtype: torch.dtype, seed: int) -> Any:
        """Projections of some tokens: positional and by name."""
        sizes = {**self.channels, "step": self.steps, "beta": self.heads}
        sizes["z"] = self.channels["v"]
        made = {
            name: random(rows, count, size, dtype=dtype, seed=seed + at)
            for at, (name, size) in enumerate(sizes.items())
        }
        more = {name: made[name] for name in ("beta", "z") if name in self.given}
        return [made[name] for name in ("q", "k", "v", "step")], more

    def cache(self, rows: int, dtype: torch.dtype, start: Sequence[int] | None) -> Any:
        kept = {
            f"kept_{name}": PerRow(count, self.width)
            for name, count in self.channels.items()
        }
        sizes = (self.heads, self.key, self.value)
        kept["state"] = PerRow(*sizes, dtype=torch.float32)
        return emptied(kept, rows, dtype, start)


def emptied(
    kept: dict[str, Any], rows: int, dtype: torch.dtype, start: Sequence[int] | None
) -> Cache:
    """A cache of some states, before any token."""
    cache = Cache([{name: one} for name, one in kept.items()], rows, 64, dtype, "cpu")
    cache.start = None if start is None else torch.tensor(start, dtype=torch.int32)
    return cache


UNIT = {"fn": "silu", "l2_eps": 1e-6, "scale": 0.3}
HEAD = {"eps": 1e-5}
MIXERS = {
    "delta": Mixer(
        share=3,
        given=("dt_bias", "beta", "z", "norm"),
        attrs={**UNIT, **HEAD, "factor": 2.0, "weight_in": "f32"},
    ),
    "delta, bounds": Mixer(
        given=("beta", "bias_q", "bias_v"),
        attrs={**UNIT, "low": 0.2, "high": 1.5},
    ),
    "channels": Mixer(
        share=1,
        keyed=True,
        given=("dt_bias", "beta", "z", "norm"),
        attrs={**UNIT, **HEAD, "gate": "sigmoid"},
    ),
    "channels, a floor": Mixer(
        share=1, keyed=True, given=("dt_bias", "beta"), attrs={**UNIT, "floor": -5.0}
    ),
    "sum": Mixer(
        groups=1,
        share=4,
        given=("dt_bias", "skip", "bias_q", "bias_k", "bias_v"),
        attrs={"fn": "silu", "steps": True},
    ),
    "sum, a norm": Mixer(
        given=("dt_bias", "skip", "z", "norm"),
        attrs={**HEAD, "steps": True, "order": "gate_first"},
        width=2,
    ),
}


def conv_use(channels: int, width: int, fn: str | None, *given: str) -> OpUse:
    """short_conv; ``given`` may be a bias."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "x": ("B", "T", channels),
        "weight": (channels, width),
        "state": (channels, width),
    }
    return OpUse("short_conv", {"fn": fn}, frozenset([*shapes, *given]), shapes)


def gated_use(width: int, weights: int, **attrs: Any) -> OpUse:
    """gated_norm, with so many weights."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "x": ("B", "T", width),
        "z": ("B", "T", width),
        "weight": (weights,),
    }
    return OpUse(
        "gated_norm", {"eps": 1e-5, "fn": "silu", **attrs}, frozenset(shapes), shapes
    )
