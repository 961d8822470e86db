"""Run models on the same inputs, and measure how far their answers lie apart.

An answer holds the hidden state after every layer and the logits, over the prompt and
the tokens that were then fed one at a time with the cache.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

TOLERANCES = {"float32": 1e-4, "float16": 3e-2, "bfloat16": 2e-1}
"""Largest :func:`difference` of two right implementations, by dtype.

In fp32 only the order of sums differs; a half-precision model rounds after every op,
and two right implementations round in different places.
"""

Answer = Mapping[str, torch.Tensor]
"""``layer 0``, ``layer 1``, … and ``logits``, each ``[B,P+D,·]``."""
Read = Callable[[Any], torch.Tensor]
Layers = Iterable[tuple[int, nn.Module]]


@dataclass(frozen=True)
class Scenario:
    """The inputs of a comparison: prompts, and tokens to feed one at a time after them.

    ``ids`` [B,P], ``more`` [B,D], ``mask`` and ``positions`` of the prompt or None; all
    int64.
    """

    name: str
    ids: torch.Tensor
    more: torch.Tensor
    mask: torch.Tensor | None = None
    positions: torch.Tensor | None = None

    @property
    def phases(self) -> dict[str, slice]:
        """The parts of an answer: the prompt, and decoding where there is some."""
        prompt, total = self.ids.shape[1], self.ids.shape[1] + self.more.shape[1]
        found = {f"{self.name} prompt": slice(0, prompt)}
        if total > prompt:
            found[f"{self.name} decode"] = slice(prompt, total)
        return found

    @property
    def real(self) -> torch.Tensor:
        """True where an answer counts: bool ``[B,P+D]``, False at padding."""
        mask = torch.ones_like(self.ids) if self.mask is None else self.mask
        return torch.cat([mask, torch.ones_like(self.more)], 1).bool()


def scenarios(vocab: int, prompt: int = 18, decode: int = 6) -> list[Scenario]:
    """Make a random prompt, and a batch of two of which the first row is padded."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(
        min(3, vocab - 1), vocab, (3, prompt + decode), generator=generator
    )
    mask = torch.ones_like(ids[1:, :prompt])
    mask[0, : prompt // 4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return [
        Scenario("single", ids[:1, :prompt], ids[:1, prompt:]),
        Scenario("padded", ids[1:, :prompt] * mask, ids[1:, prompt:], mask, positions),
    ]


@torch.no_grad()
def answer(model: nn.Module, layers: Layers, read: Read, given: Scenario) -> Answer:
    """Run a model on a scenario; it is called as models of transformers are.

    Args:
        model: takes input_ids, attention_mask, position_ids, past_key_values; gives
            logits and past_key_values.
        layers: its decoder layers, by the numbers that their rows have.
        read: the hidden state in what a layer returns.
        given: the scenario.
    """
    found: dict[str, list[torch.Tensor]] = {}
    device = next(model.parameters()).device
    cache, mask = None, given.mask
    with _watching(layers, read, found):
        for ids, positions in calls(given):
            if cache is not None and mask is not None:
                mask = torch.cat([mask, torch.ones_like(ids)], 1)
            extra = {"attention_mask": mask, "position_ids": positions}
            out = model(
                input_ids=ids.to(device),
                past_key_values=cache,
                use_cache=True,
                **{k: v.to(device) for k, v in extra.items() if v is not None},
            )
            cache = out.past_key_values
            found.setdefault("logits", []).append(out.logits.float().cpu())
    return {name: torch.cat(pieces, 1) for name, pieces in found.items()}


def calls(given: Scenario) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield (ids, positions) of each call; positions of decoding go on from the last of
    the prompt.

    Those of two streams ([B,2,P], ChatGLM-6B) are left for the model to continue.
    """
    yield given.ids, given.positions
    for at in range(given.more.shape[1]):
        positions = None
        if given.positions is not None and given.positions.ndim == 2:
            positions = given.positions[..., -1:] + 1 + at
        yield given.more[:, at : at + 1], positions


@contextmanager
def _watching(
    layers: Layers, read: Read, found: dict[str, list[torch.Tensor]]
) -> Iterator[None]:
    """Record the hidden state after every layer while the body runs."""

    def keep(name: str, _module: nn.Module, _given: Any, out: Any) -> None:
        found.setdefault(name, []).append(read(out).float().cpu())

    handles = [
        layer.register_forward_hook(partial(keep, f"layer {at}"))
        for at, layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def carried(out: Any, summands: Sequence[int] | None = None) -> torch.Tensor:
    """Return the hidden state from what an emitted layer returns.

    A layer may hand on the operands of its last add; their sum is the hidden state.
    ``summands`` says which values these are, where there are others like them.
    """
    if isinstance(out, torch.Tensor):
        return out
    return added(out if summands is None else [out[at] for at in summands])


def added(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sum of the first value and of those of its shape and dtype."""
    like = [
        v for v in values if (v.shape, v.dtype) == (values[0].shape, values[0].dtype)
    ]
    return torch.stack(like).sum(0) if len(like) > 1 else like[0]


def first(out: Any) -> torch.Tensor:
    """Return the hidden state from what a layer of transformers returns.

    Several streams of it stand before batch and tokens there.
    """
    found: torch.Tensor = out if isinstance(out, torch.Tensor) else out[0]
    return found.permute(1, 2, 0, 3) if found.ndim == 4 else found


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest ``|got - expected| / (rms(expected) + |expected|)``.

    The root mean square makes it independent of the scale of a hidden state, the
    element itself forgives the few huge channels that trained models have. inf where
    the shapes differ or either holds nan or inf.
    """
    if got.shape != expected.shape:
        return float("inf")
    if not got.numel():
        return 0.0
    rms = expected.square().mean().sqrt()
    apart = (got - expected).abs() / (rms + expected.abs()).clamp(min=1e-30)
    worst = apart.max().item()
    return worst if worst == worst else float("inf")


@dataclass
class Comparison:
    """Differences by phase and row, and the tolerance."""

    tolerance: float
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    """Phase (``single prompt``) to row (``layer 3``) to :func:`difference`."""
    ranks: list[tuple[float, str, str]] = field(default_factory=list)
    """The :attr:`worst` of each rank, where several compute the model."""

    def add(self, given: Scenario, got: Answer, expected: Answer) -> None:
        """Compare one scenario; rows that the reference does not give are left out."""
        for phase, part in given.phases.items():
            real = given.real[:, part]
            self.rows[phase] = {
                name: difference(got[name][:, part][real], want[:, part][real])
                for name, want in expected.items()
            }

    @property
    def worst(self) -> tuple[float, str, str]:
        """(difference, phase, row) of the largest difference."""
        return max(
            (value, phase, row)
            for phase, rows in self.rows.items()
            for row, value in rows.items()
        )

    @property
    def first(self) -> tuple[str, str] | None:
        """(phase, row) of the first row beyond the tolerance, or None."""
        for row in self.names:
            for phase, rows in self.rows.items():
                if row in rows and not rows[row] <= self.tolerance:
                    return phase, row
        return None

    @property
    def names(self) -> Sequence[str]:
        """Rows in order: layers, then the logits."""
        return list(dict.fromkeys(name for rows in self.rows.values() for name in rows))

    @property
    def equal(self) -> bool:
        """True if all differences are within the tolerance, on every rank."""
        others = all(value <= self.tolerance for value, _, _ in self.ranks)
        return self.first is None and others
