"""Ranks as processes that talk by torch.distributed: NCCL between GPUs, gloo between
CPUs; `torchrun` starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from .ranks import Ranks, RanksError, leave

#: Seconds in which all ranks must have come together.
LIMIT = 120.0


class Processes(Ranks):
    """A rank that is a process, in a `group` that computes and one that talks of
    everything else, which is on the host."""

    def __init__(
        self,
        rank: int,
        count: int,
        group: Any,
        host: Any,
    ):
        super().__init__(rank, count)
        self.group = group
        self.host = host

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the sum of all ranks' tensors."""
        total = x.clone(memory_format=torch.contiguous_format)
        with self._answered():
            dist.all_reduce(total, group=self.group)
        return total

    def gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns every rank's tensor."""
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.count)]
        with self._answered():
            dist.all_gather(parts, x, group=self.group)
        return parts

    def told(self, value: Any) -> list[Any]:
        """Returns every rank's value."""
        values = [None] * self.count
        with self._answered():
            dist.all_gather_object(values, value, group=self.host)
        return values

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
                f"rank {self.rank}: another rank has ended or does not answer, so this"
                f" one ends too ({reason}). The first message of all ranks tells why."
            ) from error


def join(count: int, device: torch.device | str = "cpu") -> Processes:
    """Returns this process as one of `count` ranks, which an initialised process group
    makes. Raises RanksError where there is none, or one of another size."""
    if not (dist.is_available() and dist.is_initialized()):
        raise RanksError(
            f"this build is for {count} ranks, and this process belongs to no group:"
            f" start it by `torchrun --nproc-per-node {count}`, or initialise"
            " torch.distributed before loading."
        )
    rank, found = dist.get_rank(), dist.get_world_size()
    if found != count:
        raise RanksError(
            f"rank {rank}: this build is for {count} ranks, and {found} run. Start"
            f" `torchrun --nproc-per-node {count}`, or compile with"
            f" --tensor-parallel {found}."
        )
    host = _group("gloo")
    nccl = torch.device(device).type == "cuda"
    ranks = Processes(rank, count, _group("nccl") if nccl else host, host)
    ranks.met()
    return ranks


def _group(backend: str) -> Any:
    """Returns a group of all processes with a backend."""
    if dist.get_backend() == backend:
        return dist.group.WORLD
    return dist.new_group(backend=backend)


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
    finally:
        leave()
        dist.destroy_process_group()
