"""The ops that a model calls: noted, compared with the reference, and timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from gpu_timing import Clock

# Relative to the largest value of the reference's result, where that is above 1.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Call:
    """An op with the operands it was called with."""

    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self, ops: Any) -> Any:
        """Calls it again, from another module of ops or the same."""
        return getattr(ops, self.op)(*self.args, **self.kwargs)

    def tensors(self) -> list[torch.Tensor]:
        """The operands that are tensors."""
        every = (*self.args, *self.kwargs.values())
        return [value for value in every if isinstance(value, torch.Tensor)]

    def state(self) -> Any | None:
        """Return what the layer keeps, if the op reads or writes it."""
        every = (*self.args, *self.kwargs.values())
        return next((value for value in every if hasattr(value, "tensors")), None)

    def kept(self, *, written: bool = False) -> list[torch.Tensor]:
        """Return what the layer keeps of the slots that are filled after the call, or
        only of those that it writes; all of what it keeps for rows."""
        state = self.state()
        if state is None:
            return []
        kept, dim = state.tensors().values(), state.slots_dim
        if dim is None:
            return list(kept)
        tokens, first = self.tensors()[0].shape[1], state.past if written else 0
        return [t.narrow(dim, first, state.past + tokens - first) for t in kept]

    @property
    def kind(self) -> str:
        """Calls of one kind cost the same: `linear bf16[4608,4096]`."""
        largest = max(self.tensors(), key=lambda t: t.numel(), default=None)
        if self.state() is not None or largest is None:
            return self.op
        dtype = str(largest.dtype).removeprefix("torch.")
        return f"{self.op} {dtype}{list(largest.shape)}".replace(" [", "[")


class Watched:
    """A module of ops of which each call is seen: `look(call)` gives its result."""

    def __init__(self, ops: ModuleType, look: Callable[[Call], Any]) -> None:
        self._ops, self._look = ops, look

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ops, name)
        if not callable(found):
            return found
        return lambda *args, **kwargs: self._look(Call(name, args, kwargs))


@contextmanager
def watching(
    model: Any, ops: ModuleType, look: Callable[[Call], Any]
) -> Iterator[None]:
    """The model's calls go through `look`."""
    usual, model.ops = model.ops, Watched(ops, look)
    try:
        yield
    finally:
        model.ops = usual


def noted(model: Any, ops: ModuleType, run: Callable[[], object]) -> list[Call]:
    """The calls of a run. They keep their operands, so take few tokens."""
    calls: list[Call] = []

    def look(call: Call) -> Any:
        calls.append(call)
        return call.run(ops)

    with watching(model, ops, look):
        run()
    return calls


class Comparison:
    """Runs every call with the reference and with the kernels.

    The reference's results go on through the model, so that one mistake does not blur
    the next. `real` bool [B, T] says which tokens count, None all.
    """

    def __init__(self, kernels: ModuleType, reference: ModuleType) -> None:
        self.kernels, self.reference = kernels, reference
        self.real: torch.Tensor | None = None
        self.worst: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def look(self, call: Call) -> Any:
        """Compares one call, and gives the reference's result."""
        if getattr(self.kernels, call.op) is getattr(self.reference, call.op):
            return call.run(self.reference)
        kept = call.kept(written=True)
        before = [each.clone() for each in kept]
        want = call.run(self.reference)
        want_kept = [each.clone() for each in kept]
        for each, old in zip(kept, before, strict=True):
            each.copy_(old)
        got = call.run(self.kernels)
        pairs = [*zip(_tensors(got), _tensors(want), strict=True)]
        if self.real is not None:
            pairs = [(self._counting(a), self._counting(b)) for a, b in pairs]
        pairs += zip(kept, want_kept, strict=True)
        worst = max(difference(a, b) for a, b in pairs)
        self.worst[call.op] = max(worst, self.worst.get(call.op, 0.0))
        self.calls[call.op] = self.calls.get(call.op, 0) + 1
        for each, new in zip(kept, want_kept, strict=True):
            each.copy_(new)
        return want

    def _counting(self, value: torch.Tensor) -> torch.Tensor:
        real = self.real
        return value if real is None or value.shape[:2] != real.shape else value[real]


def _tensors(result: Any) -> list[torch.Tensor]:
    """The results that are tensors; an op may also return what the layer keeps."""
    every = result if isinstance(result, tuple) else (result,)
    return [value for value in every if isinstance(value, torch.Tensor)]


def difference(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest difference in units of what is allowed; infinite for another shape
    or dtype, or where only one is finite."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if want.numel() == 0:
        return 0.0
    if not want.is_floating_point():
        return 0.0 if torch.equal(got, want) else float("inf")
    unit = max(1.0, float(want.float().abs().max())) * TOLERANCE[want.dtype]
    worst = float((got.float() - want.float()).abs().max()) / unit
    return worst if worst == worst else float("inf")


@dataclass(frozen=True)
class Cost:
    """A kind of op in one step: how often, how long each, and bytes each must move."""

    kind: str
    calls: int
    seconds: float
    bytes: float


def costs(calls: Iterable[Call], ops: ModuleType, clock: Clock) -> Iterator[Cost]:
    """Times the calls of each kind together: every layer has weights of its own, so
    they come from memory as in a step."""
    kinds: dict[str, list[Call]] = {}
    for call in calls:
        kinds.setdefault(call.kind, []).append(call)
    for kind, same in kinds.items():
        # mypy infers no type for a default that binds the loop variable.
        run = clock.launched(lambda same=same: [call.run(ops) for call in same])  # type: ignore[misc]
        moved = sum(moves(call, call.run(ops)) for call in same) / len(same)
        yield Cost(kind, len(same), clock.median(run) / len(same), moved)


def moves(call: Call, result: Any) -> float:
    """Bytes that a call reads and writes at least: its operands, its results and the
    slots that are filled. Of an embedding, the rows that are looked up."""
    operands = call.tensors()
    if "embedding" in call.op:
        operands = operands[:1]
    total = sum(tensor.nbytes for tensor in (*operands, *_tensors(result)))
    return total + sum(part.numel() * part.element_size() for part in call.kept())
