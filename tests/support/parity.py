"""Measure how far a build's logits lie from reference logits, scenario by scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from support.reference import PROMPT, Tensors, cached
from support.variants import Variant

Scenario = Callable[[Any, Tensors], float]
TOLERANCE = 5e-5


def prompt(model: Any, expected: Tensors) -> float:
    """All tokens in one call."""
    return _worst(_call(model, expected["ids"]), expected["prompt"])


def decode(model: Any, expected: Tensors) -> float:
    """Token by token, with the cache."""
    return _worst(cached(model, expected["ids"])[:, PROMPT:], expected["decode"])


def padded(model: Any, expected: Tensors) -> float:
    """A left-padded batch, prompt and decoding; only where the mask is 1."""
    mask, positions = expected["padded.mask"], expected["padded.positions"]
    got = cached(model, expected["padded.ids"], mask, positions)
    assert torch.isfinite(got).all(), "a padding query must not give nan either"
    return _worst(got[mask == 1], expected["padded"][mask == 1])


def padded_by_mask(model: Any, expected: Tensors) -> float:
    """The same batch, the positions left for the model to find from the mask."""
    mask = expected["padded.mask"]
    got = cached(model, expected["padded.ids"], mask)
    return _worst(got[mask == 1], expected["padded"][mask == 1])


def far(model: Any, expected: Tensors) -> float:
    """Positions beyond 16k, where the precision of the rope table shows."""
    positions = expected["far.positions"]
    return _worst(_call(model, expected["ids"], positions), expected["far"])


SCENARIOS: Mapping[str, Scenario] = {
    f.__name__: f for f in (prompt, decode, padded, padded_by_mask, far)
}


def of(variant: Variant) -> list[str]:
    """The scenarios that mean something for a variant."""
    without = set() if variant.far else {"far"}
    without |= set() if variant.padding else {"padded", "padded_by_mask"}
    return [name for name in SCENARIOS if name not in without]


def _call(
    model: Any, ids: torch.Tensor, positions: torch.Tensor | None = None
) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, position_ids=positions).logits
    return logits


def _worst(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape
    return (got - expected).abs().max().item()
