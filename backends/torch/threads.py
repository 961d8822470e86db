"""Ranks as threads of one process, which run a program of several ranks as it is."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch

from glmc.backends.runtime.ranks import Ranks, RanksError, refuse_gradients, use

Result = TypeVar("Result")
LIMIT = 300.0
"""Seconds after which a rank that waits for the others gives up."""


class Left(RanksError):
    """Another rank has ended, and told why itself."""


class _Table:
    """A place for a value of each of some ranks."""

    def __init__(self, count: int) -> None:
        self.values: list[Any] = [None] * count
        self.barrier = threading.Barrier(count)

    def told(self, at: int, value: Any) -> list[Any]:
        """Put a value down and return those of all, once all have done so."""
        self.values[at] = value
        self.barrier.wait(LIMIT)
        found = list(self.values)
        self.barrier.wait(LIMIT)
        return found


class _World:
    """The tables of all ranks, of each stage, and of the ranks of a number in all
    stages; and a queue before each rank."""

    def __init__(self, count: int, stages: int) -> None:
        self.all = _Table(count * stages)
        self.stages = [_Table(count) for _ in range(stages)]
        self.columns = [_Table(stages) for _ in range(count)]
        self.queues = [SimpleQueue[torch.Tensor]() for _ in range(count * stages)]

    def abort(self) -> None:
        """Let go of all who wait."""
        for table in (self.all, *self.stages, *self.columns):
            table.barrier.abort()


class Threads(Ranks):
    """A rank that is a thread; all of them share a ``world``."""

    def __init__(
        self, rank: int, count: int, stage: int, stages: int, world: _World
    ) -> None:
        super().__init__(rank, count, stage, stages)
        self.world = world

    def told(self, value: Any) -> list[Any]:
        """Returns every rank's value, itself and no copy."""
        return self._told(self.world.all, self.number, value)

    def at_first(self, value: Any) -> list[Any] | None:
        """Returns every rank's value, on the first one."""
        every = self.told(value)
        return every if self.number == 0 else None

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the tensor of every rank of the stage."""
        refuse_gradients(x)
        return self._told(self.world.stages[self.stage], self.rank, x)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Adds in the order of the ranks, so that all get the same bits."""
        total, *rest = self.gather(x)
        for other in rest:
            total = total + other
        return total if rest else x

    def send(self, x: torch.Tensor) -> None:
        """Puts a tensor before the rank of this number in the next stage."""
        self.world.queues[self.number + self.count].put(x)

    def receive(self, x: torch.Tensor) -> torch.Tensor:
        """Copies what stands before this rank."""
        try:
            return x.copy_(self.world.queues[self.number].get(timeout=LIMIT))
        except Empty:
            raise Left(f"rank {self.number}: the stage before has ended") from None

    def of_last(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the tensor of the last stage."""
        found: torch.Tensor = self._told(self.world.columns[self.rank], self.stage, x)[
            -1
        ]
        return found

    def _told(self, table: _Table, at: int, value: Any) -> list[Any]:
        try:
            return table.told(at, value)
        except threading.BrokenBarrierError:
            raise Left(f"rank {self.number}: another rank has ended") from None


def on_ranks(
    count: int, run: Callable[[Ranks], Result], stages: int = 1
) -> list[Result]:
    """Calls ``run`` as each of ``count`` ranks of each stage, and returns what each
    returned; one alone needs no thread.

    Raises what the first rank that failed by itself raised.
    """
    world = _World(count, stages)

    def one(number: int) -> Result:
        ranks = Threads(number % count, count, number // count, stages, world)
        try:
            with use(ranks):
                return run(ranks)
        except BaseException:
            world.abort()
            raise

    if count * stages == 1:
        return [run(Threads(0, 1, 0, 1, world))]
    with ThreadPoolExecutor(count * stages) as pool:
        futures = [pool.submit(one, number) for number in range(count * stages)]
    errors = [error for future in futures if (error := future.exception())]
    first = next((e for e in errors if not isinstance(e, Left)), None)
    if first or errors:
        raise first or errors[0]
    return [future.result() for future in futures]
