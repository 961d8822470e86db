"""Check that a program answers the same in however many calls tokens are read.

A prompt in one call, in chunks, or token by token; with other rows and padding, or
alone: what a layer keeps from call to call has to make them all the same. So a state
that is not written, is read too early or is shared by two ops shows, also where every
stage of a program does the same wrong thing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from glmc.backends.torch.execute import (
    TOKENS,
    Executor,
    first_slots,
    read,
    seen_both_ways,
)
from glmc.backends.torch.threads import on_ranks
from glmc.ir.graph import Program
from glmc.ir.op import Op


@dataclass(frozen=True)
class Reading:
    """Some rows of the batch, from a token on, in calls of so many tokens.

    what  how that is said in a message
    """

    what: str
    rows: slice
    first: int
    calls: tuple[int, ...]


def differences(
    program: Program, checkpoint: dict[str, torch.Tensor]
) -> Iterator[tuple[str, float]]:
    """Yields (reading, largest difference to the prompt in one call) for each reading.

    Relative to the largest answer where that is above 1, as in ``compare``.
    """
    yield from on_ranks(
        program.ranks, lambda _: list(_differences(program, checkpoint))
    )[0]


def _differences(
    program: Program, checkpoint: dict[str, torch.Tensor]
) -> Iterator[tuple[str, float]]:
    """Yields the differences as one of the program's ranks finds them."""
    model, tokens = Executor(program, checkpoint), _steady(program)
    everything = slice(0, len(first_slots()))
    whole = read(model, everything, 0, (tokens,))
    for reading in _readings(program, tokens):
        rows, first = reading.rows, reading.first
        got, want = read(model, rows, first, reading.calls), whole[rows, first:]
        real = torch.arange(first, tokens) >= first_slots()[rows, None]
        unit = max(1.0, want[real].abs().max().item())
        yield reading.what, (got[real] - want[real]).abs().max().item() / unit


def _readings(program: Program, tokens: int) -> Iterator[Reading]:
    """Yields the readings of a program; none where its tokens do not suffice for two
    calls.

    The first call reads what lies below a prefix that sees itself in both directions:
    later tokens of it would not have been seen by those before. And of every row it
    reads one token that is no padding.
    """
    prefix = any("prefix" in {f for f, _, _ in op.operands()} for op in _ops(program))
    starts, bounds = first_slots().tolist(), seen_both_ways().tolist()
    least = [
        start + (bound if prefix else 1)
        for start, bound in zip(starts, bounds, strict=True)
    ]
    every, begun = slice(0, len(starts)), max(least)
    yield from _calls("with padding", every, 0, begun, tokens)
    for row, (start, seen) in enumerate(zip(starts, least, strict=True)):
        if tokens <= start:
            continue
        what = f"row {row} alone"
        yield Reading(what, slice(row, row + 1), start, (tokens - start,))
        yield from _calls(
            what, slice(row, row + 1), start, seen - start, tokens - start
        )


def _calls(
    what: str, rows: slice, first: int, begun: int, tokens: int
) -> Iterator[Reading]:
    """Yields readings in chunks, and token by token, after a call that reads what it
    must."""
    left = tokens - begun
    if left > 0:
        yield Reading(f"{what}, token by token", rows, first, (begun, *[1] * left))
    if left > 3:
        chunks = (begun, 2, 1, left - 3)
        yield Reading(f"{what}, in chunks", rows, first, chunks)


def _ops(program: Program) -> Iterator[Op]:
    return (op for graph in program.graphs for op in graph.ops)


def _steady(program: Program) -> int:
    """Returns how many tokens are read: as many as have the same positions in any
    call."""
    limited = (op for op in _ops(program) if op.steady_until)
    limits: list[int] = [getattr(op, str(op.steady_until)) for op in limited]
    return min([TOKENS, *limits])
