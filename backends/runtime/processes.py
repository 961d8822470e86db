"""Ranks as processes that talk by torch.distributed: NCCL between GPUs, gloo between
CPUs; `torchrun` starts them."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from .ranks import Ranks, RanksError, leave, refuse_gradients

#: Seconds in which all ranks must have come together.
LIMIT = 120.0


class Processes(Ranks):
    """A rank that is a process, in groups of its stage, of the ranks of its number in
    all stages, and of all, on the host."""

    def __init__(self, count: int, stages: int, backend: str):
        number = dist.get_rank()
        super().__init__(number % count, count, number // count, stages)
        self.group = _groups(
            [[s * count + r for r in range(count)] for s in range(stages)], backend
        )
        self.column = _groups(
            [[s * count + r for s in range(stages)] for r in range(count)], backend
        )
        self.host = _groups([list(range(count * stages))], "gloo")

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the sum of the stage's tensors."""
        refuse_gradients(x)
        total = x.clone(memory_format=torch.contiguous_format)
        with self._answered():
            dist.all_reduce(total, group=self.group)
        return total

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the tensor of every rank of the stage."""
        refuse_gradients(x)
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.count)]
        with self._answered():
            dist.all_gather(parts, x, group=self.group)
        return parts

    def told(self, value: Any) -> list[Any]:
        """Returns every rank's value."""
        values = [None] * (self.count * self.stages)
        with self._answered():
            dist.all_gather_object(values, value, group=self.host)
        return values

    def at_first(self, value: Any) -> list[Any] | None:
        """Returns every rank's value, on the first one."""
        values = [None] * (self.count * self.stages) if self.number == 0 else None
        with self._answered():
            dist.gather_object(value, values, group=self.host)
        return values

    def send(self, x: torch.Tensor) -> None:
        """Hands a tensor to the next stage."""
        with self._answered():
            dist.send(x.contiguous(), self.number + self.count, group=self.column)

    def receive(self, x: torch.Tensor) -> torch.Tensor:
        """Receives a tensor of the stage before."""
        with self._answered():
            dist.recv(x, self.number - self.count, group=self.column)
        return x

    def of_last(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the tensor of the last stage."""
        x = x.contiguous()
        last = (self.stages - 1) * self.count + self.rank
        with self._answered():
            dist.broadcast(x, last, group=self.column)
        return x

    def met(self, limit: float = LIMIT) -> None:
        """Waits for all ranks. Raises RanksError where some have not come in time."""
        with self._answered():
            dist.monitored_barrier(self.host, timedelta(seconds=limit), True)

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise RanksError(
                f"rank {self.number}: another rank has ended or does not answer, so"
                f" this one ends too ({reason}). The first message of all ranks tells"
                " why."
            ) from error


def join(count: int, stages: int = 1, device: torch.device | str = "cpu") -> Processes:
    """Returns this process as one of the ranks that an initialised process group makes,
    `count` in each of `stages` stages. Raises RanksError where there is no group, or
    one of another size."""
    world = count * stages
    if not (dist.is_available() and dist.is_initialized()):
        raise RanksError(
            f"this build is for {world} ranks, and this process belongs to no group:"
            f" start it by `torchrun --nproc-per-node {world}`, or initialise"
            " torch.distributed before loading."
        )
    found = dist.get_world_size()
    if found != world:
        # All are to say so before the first of them ends.
        with suppress(RuntimeError):
            every = dist.new_group(backend="gloo")
            dist.monitored_barrier(every, timedelta(seconds=LIMIT))
        raise RanksError(
            f"rank {dist.get_rank()}: this build is for {world} ranks, and {found} run."
            f" Start `torchrun --nproc-per-node {world}`, or compile with"
            f" --tensor-parallel {found}."
        )
    nccl = torch.device(device).type == "cuda"
    ranks = Processes(count, stages, "nccl" if nccl else "gloo")
    ranks.met()
    return ranks


def _groups(rows: list[list[int]], backend: str) -> Any:
    """Returns the group of this process, one for each row; all processes make all."""
    if len(rows) == 1 and dist.get_backend() == backend:
        return dist.group.WORLD
    made = [dist.new_group(row, backend=backend) for row in rows]
    mine = dist.get_rank()
    return next(g for g, row in zip(made, rows, strict=True) if mine in row)


def launched() -> bool:
    """Tells whether a launcher started this process beside others, as torchrun does."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def number() -> int:
    """Returns the number of this process in its group."""
    return dist.get_rank()


def own_device(device: torch.device | str) -> torch.device:
    """Returns the device of this process: "cuda" alone is the GPU of its number on its
    machine."""
    found = torch.device(device)
    if found != torch.device("cuda"):
        return found
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def group(device: torch.device | str = "cpu") -> Iterator[None]:
    """Initialises the process group that torchrun's variables describe, within."""
    try:
        own = own_device(device)
        if own.type == "cuda":
            torch.cuda.set_device(own)
        dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RanksError(
            f"this process cannot join the others ({reason}); start all of them by one"
            " `torchrun`."
        ) from error
    try:
        yield
    except Exception:
        _end_by_itself()
        raise
    finally:
        leave()
        dist.destroy_process_group()


def _end_by_itself() -> None:
    """Lets this process end with an exit code of its own: what ends one rank ends all,
    and a launcher asks the others to stop as soon as one has."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
