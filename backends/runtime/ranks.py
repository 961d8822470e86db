"""Ranks: the processes, or threads, that compute one model together.

`current()` is the rank that this code runs as. Its collectives are called by all ranks
in the same order, as they run the same statements.
"""

import atexit
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch


class RanksError(ValueError):
    """Ranks that do not belong together, or no longer answer: what, where, and what to
    do about it."""

    kind = "ranks"


class Ranks:
    """One of `count` ranks, the one of number `rank`; a base for ways to talk."""

    def __init__(self, rank: int, count: int):
        self.rank = rank
        self.count = count

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the sum of all ranks' `x`, of one shape; the same on every rank."""
        raise NotImplementedError

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns every rank's `x`, of one shape, in the order of the ranks."""
        raise NotImplementedError

    def told(self, value: Any) -> list[Any]:
        """Returns every rank's `value`, any small object that can be pickled."""
        raise NotImplementedError

    def of_first(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the first rank's `x`."""
        return self.gather(x)[0]

    def same(self, what: str, value: str) -> None:
        """Raises RanksError on every rank where they have not the same `value`."""
        found = self.told(value)
        other = [rank for rank, one in enumerate(found) if one != found[0]]
        if other:
            raise RanksError(
                f"rank {self.rank}: the {what} of rank {other[0]} is another than that"
                f" of rank 0 ({found[other[0]]}, {found[0]}); give all ranks the same."
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Lets all ranks go on only where none failed within; else every rank raises
        what one of them did."""
        try:
            yield
        except RanksError:  # every rank has it, or nobody answers
            raise
        except Exception as error:
            self.told(str(error))
            raise
        failed = [(n, why) for n, why in enumerate(self.told(None)) if why is not None]
        if failed:
            number, why = failed[0]
            raise RanksError(
                f"rank {self.rank} ends because rank {number} failed: {why}"
            )


_here: ContextVar[Ranks | None] = ContextVar("ranks", default=None)
_process: list[Ranks] = []


def current() -> Ranks:
    """Returns the rank that this code runs as. Raises RanksError where there is none:
    outside of `use`, and before `belong` in this process."""
    found = _here.get()
    if found is not None:
        return found
    if not _process:
        raise RanksError(
            "this build is one of several ranks, and this process is none of them yet:"
            " load the model inside an initialised process group, as torchrun starts."
        )
    return _process[-1]


@contextmanager
def use(ranks: Ranks) -> Iterator[None]:
    """Makes `ranks` the current one of this thread, within."""
    token = _here.set(ranks)
    try:
        yield
    finally:
        _here.reset(token)


def belong(ranks: Ranks) -> None:
    """Makes `ranks` the one of this process, for every thread of it, until `leave`."""
    _process[:] = [ranks]


def leave() -> None:
    """Forgets the rank of this process, and with it the means to talk to others."""
    _process.clear()


# What talks has threads of its own, which must not outlive the interpreter.
atexit.register(leave)


def digest(parts: Sequence[tuple[str, bytes]]) -> str:
    """Returns twelve digits that differ where a name or its bytes do."""
    whole = hashlib.sha256()
    for name, content in sorted(parts):
        whole.update(f"{name} {len(content)} ".encode())
        whole.update(content)
    return whole.hexdigest()[:12]
