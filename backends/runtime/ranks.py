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
    """One of `count` ranks of a stage, the one of number `rank`, in one of `stages`
    stages, the one of number `stage`; a base for ways to talk."""

    def __init__(self, rank: int, count: int, stage: int = 0, stages: int = 1):
        self.rank = rank
        self.count = count
        self.stage = stage
        self.stages = stages

    @property
    def number(self) -> int:
        """The number of this rank among those of all stages."""
        return self.stage * self.count + self.rank

    @property
    def is_last(self) -> bool:
        """True in the last stage, which has the head."""
        return self.stage == self.stages - 1

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the sum of the stage's `x`, of one shape; the same on every rank."""
        raise NotImplementedError

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the stage's `x`, of one shape, in the order of its ranks."""
        raise NotImplementedError

    def told(self, value: Any) -> list[Any]:
        """Returns the `value` of every rank of all stages, any small object that can be
        pickled."""
        raise NotImplementedError

    def at_first(self, value: Any) -> list[Any] | None:
        """Returns the `value` of every rank of all stages on the first of them, None on
        the others."""
        raise NotImplementedError

    def send(self, x: torch.Tensor) -> None:
        """Hands a tensor to the rank of this number in the next stage."""
        raise NotImplementedError

    def receive(self, x: torch.Tensor) -> torch.Tensor:
        """Fills `x` with what the stage before hands on, and returns it."""
        raise NotImplementedError

    def of_last(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the `x` of the rank of this number in the last stage, of one shape
        and dtype in all."""
        raise NotImplementedError

    def of_first(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the `x` of the stage's first rank."""
        return self.gather(x)[0]

    def same(self, what: str, value: str, *, of_stage: bool = False) -> None:
        """Raises RanksError on every rank where they, or with `of_stage` those of a
        stage, have not the same `value`."""
        found = self.told(value)
        firsts = [n // self.count * self.count if of_stage else 0 for n in _each(found)]
        other = [n for n in _each(found) if found[n] != found[firsts[n]]]
        if other:
            number, first = other[0], firsts[other[0]]
            raise RanksError(
                f"rank {self.number}: the {what} of rank {number} is another than that"
                f" of rank {first} ({found[number]}, {found[first]}); give all ranks"
                " the same."
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
                f"rank {self.number} ends because rank {number} failed: {why}"
            )


def refuse_gradients(x: torch.Tensor) -> None:
    """Refuses to tell other ranks what gradients are to go back through."""
    if x.requires_grad and torch.is_grad_enabled():
        raise RanksError(
            "gradients do not go through what ranks tell each other: train a build for"
            " one rank, or change weights within torch.no_grad()."
        )


def _each(values: list[Any]) -> range:
    return range(len(values))


_here: ContextVar[Ranks | None] = ContextVar("ranks", default=None)
_process: list[Ranks] = []


def current() -> Ranks:
    """Returns the rank that this code runs as. Raises RanksError where there is none:
    outside of `use`, and before `belong` in this process."""
    # A graph that torch.compile makes is a process's; a ContextVar it cannot look into.
    found = None if torch.compiler.is_compiling() else _here.get()
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
