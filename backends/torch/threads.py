"""Ranks as threads of one process, which run a program of several ranks as it is."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from glmc.backends.runtime.ranks import Ranks, RanksError, use

Result = TypeVar("Result")
LIMIT = 300.0
"""Seconds after which a rank that waits for the others gives up."""


class Left(RanksError):
    """Another rank has ended, and told why itself."""


class Threads(Ranks):
    """A rank that is a thread; all of them share ``table`` and ``barrier``."""

    def __init__(
        self, rank: int, count: int, table: list[Any], barrier: threading.Barrier
    ) -> None:
        super().__init__(rank, count)
        self.table = table
        self.barrier = barrier

    def told(self, value: Any) -> list[Any]:
        """Returns every rank's value, itself and no copy."""
        try:
            self.table[self.rank] = value
            self.barrier.wait(LIMIT)
            found = list(self.table)
            self.barrier.wait(LIMIT)
        except threading.BrokenBarrierError:
            raise Left(f"rank {self.rank}: another rank has ended") from None
        return found

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns every rank's tensor."""
        return self.told(x)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Adds in the order of the ranks, so that all get the same bits."""
        total, *rest = self.told(x)
        for other in rest:
            total = total + other
        return total if rest else x


def on_ranks(count: int, run: Callable[[Ranks], Result]) -> list[Result]:
    """Calls ``run`` as each of so many ranks, and returns what each returned; one alone
    needs no thread.

    Raises what the first rank that failed by itself raised.
    """
    if count == 1:
        return [run(Threads(0, 1, [None], threading.Barrier(1)))]
    table: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def one(rank: int) -> Result:
        ranks = Threads(rank, count, table, barrier)
        try:
            with use(ranks):
                return run(ranks)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(one, rank) for rank in range(count)]
    errors = [error for future in futures if (error := future.exception())]
    first = next((e for e in errors if not isinstance(e, Left)), None)
    if first or errors:
        raise first or errors[0]
    return [future.result() for future in futures]
