"""Run a build for several ranks: every process of torchrun runs the command."""

import argparse
import importlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from types import ModuleType
from typing import Any

from glmc.ir.errors import GenerationError, GlmcError, RanksDisagreeError
from glmc.look.builds import Build

Command = Callable[[argparse.Namespace], int]


def on_every_rank(command: Command) -> Command:
    """Let a command run on every rank of its build; the first rank prints."""

    @wraps(command)
    def run(arguments: argparse.Namespace) -> int:
        with joined(arguments):
            return command(arguments)

    return run


@contextmanager
def joined(arguments: argparse.Namespace) -> Iterator[None]:
    """Join the other ranks of ``arguments.build``, where it is for several.

    Raises:
        RanksDisagreeError: when there are no others, or they do not belong together.
    """
    build = Build(arguments.build)
    if build.ranks == 1:
        yield
        return
    processes = _module(arguments, "processes")
    name = f"torchrun --nproc-per-node {build.ranks} -m glmc"
    if not processes.launched():
        raise RanksDisagreeError(
            f"{arguments.build} is for {build.ranks} ranks, and this process is alone:"
            f" `{name} …` with the same arguments starts all of them."
        )
    try:
        with processes.group(_device(arguments, build)), _first_prints(processes):
            yield
    except ValueError as error:
        if getattr(error, "kind", None) == "ranks":
            raise RanksDisagreeError(str(error)) from error
        raise


def refusal(error: Exception) -> GlmcError:
    """Return the error to raise for what a build raised while it generated."""
    if getattr(error, "kind", None) == "ranks":
        return RanksDisagreeError(str(error))
    return GenerationError(str(error))


def every(arguments: argparse.Namespace, value: Any) -> list[Any]:
    """Return the value that each rank has; of a build for one, this one's."""
    if Build(arguments.build).ranks == 1:
        return [value]
    found: list[Any] = _module(arguments, "ranks").current().told(value)
    return found


def of_all(arguments: argparse.Namespace, summand: Any) -> Any:
    """Return the sum of the tensors that the ranks of a stage have."""
    return _module(arguments, "ranks").current().sum(summand)


def told_by_first(arguments: argparse.Namespace, lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines that the first rank reads, on every rank."""
    if Build(arguments.build).ranks == 1:
        yield from lines
        return
    here = _module(arguments, "ranks").current()
    while True:
        line = next(lines, None) if here.number == 0 else None
        told = here.told(line)[0]
        if told is None:
            return
        yield told


def _module(arguments: argparse.Namespace, name: str) -> ModuleType:
    from glmc.use.running import import_build

    return importlib.import_module(f"{import_build(arguments.build).__name__}.{name}")


def _device(arguments: argparse.Namespace, build: Build) -> str:
    from glmc.use.running import usual_device

    chosen: str | None = arguments.device
    return chosen or usual_device(build.target)


@contextmanager
def _first_prints(processes: Any) -> Iterator[None]:
    """Keep what other ranks than the first would print."""
    if processes.number() == 0:
        yield
        return
    with redirect_stdout(io.StringIO()):
        yield
