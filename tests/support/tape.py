"""A stand-in for CUDA graphs on a CPU: what was launched is repeated, not the Python.

As in a graph, the torch ops and kernel launches of a step are noted with the tensors
and numbers they were given. A replay makes the same launches on the same memory, so
that whatever the step took from the host stays what it was.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Launch = Callable[[], None]


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Notes every launch within it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.launches: list[Launch] = []
        self.within_kernel = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        made = func(*args, **given)
        if not self.within_kernel:
            self.launches.append(lambda: _into(made, func(*args, **given)))
        return made

    def replay(self) -> None:
        """Makes the launches again."""
        with torch.no_grad():
            for launch in self.launches:
                launch()


def _into(made: Any, again: Any) -> None:
    """Puts results where they were the first time; views and what was written in place
    are there already."""
    for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
        if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
            old.copy_(new)


class Tapes:
    """Records steps on tapes; see `Recorder` of the runtime."""

    def __init__(self) -> None:
        self.warmed = 0
        self.recorded: list[Tape] = []
        self.replays = 0

    def refusal(self, run: Callable[[], None], cache: Any) -> str | None:
        """That of the package which the cache is of."""
        package = type(cache).__module__.rpartition(".")[0]
        graphs = importlib.import_module(f"{package}.graphs")
        why: str | None = graphs.refusal(run, cache)
        return why

    def warm(self, run: Callable[[], None]) -> None:
        self.warmed += 1
        run()

    def record(
        self, run: Callable[[], None], generator: torch.Generator | None
    ) -> Callable[[], None]:
        tape = Tape()
        with tape, _launches_of_kernels(tape):
            run()
        self.recorded.append(tape)

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return replay


@contextmanager
def _launches_of_kernels(tape: Tape) -> Iterator[None]:
    """Notes kernels that the Triton interpreter runs, if it is there."""
    if "triton.runtime.interpreter" not in sys.modules:
        yield
        return
    executor = importlib.import_module("triton.runtime.interpreter").GridExecutor
    call = executor.__call__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        tape.within_kernel = True
        try:
            call(self, *args, **kwargs)
        finally:
            tape.within_kernel = False
        tape.launches.append(lambda: call(self, *args, **kwargs))

    executor.__call__ = noted
    try:
        yield
    finally:
        executor.__call__ = call
