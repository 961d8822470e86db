"""The sampler: distributions, cuts, seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.backends.runtime.sampling import Sampler

PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])
DRAWS = 40_000


def frequencies(**options: Any) -> torch.Tensor:
    """Return how often each of five tokens is drawn."""
    logits = PROBABILITIES.log().expand(DRAWS, -1)
    drawn = Sampler(seed=3, **options)(logits)
    return torch.bincount(drawn, minlength=5) / DRAWS


def renormed(*weights: float) -> torch.Tensor:
    kept = torch.tensor(weights)
    return kept / kept.sum()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 1.0}, PROBABILITIES),
        ({"temperature": 0.5}, renormed(0.0025, 0.16, 0.01, 0.0625, 0.04)),
        ({"top_k": 2}, renormed(0, 0.4, 0, 0.25, 0)),
        ({"top_k": 99}, PROBABILITIES),
        ({"top_p": 0.6}, renormed(0, 0.4, 0, 0.25, 0)),
        ({"top_p": 0.66}, renormed(0, 0.4, 0, 0.25, 0.2)),
        ({"top_p": 1e-9}, renormed(0, 1, 0, 0, 0)),
        ({"top_k": 3, "top_p": 0.76}, renormed(0, 0.4, 0, 0.25, 0)),
        ({"temperature": 2.0, "top_k": 2}, renormed(0, 0.4**0.5, 0, 0.25**0.5, 0)),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(
    options: dict[str, Any], expected: torch.Tensor
) -> None:
    # Five standard deviations of a frequency at these many draws.
    assert (frequencies(**options) - expected).abs().max() < 5 * 0.5 / DRAWS**0.5


def test_control_another_distribution_is_seen() -> None:
    off = (frequencies(temperature=0.9) - PROBABILITIES).abs().max()
    assert off > 5 * 0.5 / DRAWS**0.5


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"temperature": 0}])
def test_greedy_takes_the_largest(options: dict[str, Any]) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]])
    assert Sampler(**options)(logits).tolist() == [1, 0]


def test_a_seed_repeats_and_rows_are_independent() -> None:
    logits = torch.zeros(64, 1000)
    one, two = (Sampler(temperature=1.0, seed=7)(logits) for _ in range(2))
    assert torch.equal(one, two)
    assert len(set(one.tolist())) > 50
    assert not torch.equal(one, Sampler(temperature=1.0, seed=8)(logits))


def test_without_a_seed_torchs_generator_draws() -> None:
    logits = torch.zeros(64, 1000)
    torch.manual_seed(5)
    one = Sampler(top_k=1000)(logits)
    torch.manual_seed(5)
    assert torch.equal(one, Sampler(top_k=1000)(logits))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
    ],
    ids=str,
)
def test_refuses_what_is_out_of_range(options: dict[str, Any]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; give "):
        Sampler(**options)
