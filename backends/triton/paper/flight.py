"""Read off how a kernel loads: the width, and how much waits before a use."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from glmc.backends.triton.paper.pipes import Work, work
from glmc.backends.triton.paper.sass import Instruction, Loop

# Loads to registers, to shared memory by the threads, and by the tensor memory unit.
_LOAD, _COPY, _BULK = "LDG", "LDGSTS", "UTMALDG"
_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
# Often enough for what is under way over the border of a loop to be under way.
_ROUNDS = 4


@dataclass(frozen=True)
class Flight:
    """The reads of a kernel's main loop, or of all of it where it has none.

    under_way     bytes of a thread that were asked for and not yet used, at most
    loaded        bytes that a thread asks for in a round of the loop
    widths        bits of a load -> how many of a round
    instructions  of a round
    work          what its instructions take
    bulk          whether the tensor memory unit reads: its bytes are not in the text
    """

    under_way: int
    loaded: int
    widths: dict[int, int]
    instructions: int
    work: Work
    bulk: bool


def flight(
    code: Sequence[Instruction],
    loops: Sequence[Loop],
    streams: Sequence[bool],
    chip: str,
) -> Flight:
    """Follow a kernel along its text, every loop some rounds, and look at the loop that
    reads most.

    Args:
        code: its instructions.
        loops: those without another inside.
        streams: whether an instruction loads what comes from memory, and not from a
            cache in which all programs find it.
        chip: the GPU's name in ``targets.LIMITS``.
    """
    asked = [_bytes(one) if yes else 0 for one, yes in zip(code, streams, strict=True)]
    main = max(loops, key=lambda loop: sum(_part(asked, loop)), default=None)
    if main is None or not sum(_part(asked, main)):
        main = Loop(0, len(code) - 1)
    state, most = _UnderWay(), 0
    for at in _order(code, loops):
        state.step(code[at], asked[at])
        if main.first <= at <= main.last:
            most = max(most, state.bytes)
    loads = [nbytes * 8 for nbytes in _part(asked, main) if nbytes]
    body = code[main.first : main.last + 1]
    return Flight(
        under_way=most,
        loaded=sum(loads) // 8,
        widths={bits: loads.count(bits) for bits in sorted(set(loads), reverse=True)},
        instructions=len(body),
        work=work(body, chip),
        bulk=any(one.name == _BULK for one in body),
    )


def _part(asked: Sequence[int], loop: Loop) -> Sequence[int]:
    return asked[loop.first : loop.last + 1]


def _bytes(one: Instruction) -> int:
    return next((_WIDTHS[m] for m in one.modifiers if m in _WIDTHS), 4)


def _order(code: Sequence[Instruction], loops: Sequence[Loop]) -> Iterator[int]:
    ends = {loop.last: loop.first for loop in loops}
    for at in range(len(code)):
        yield at
        if at in ends:
            for _ in range(_ROUNDS - 1):
                yield from range(ends[at], at + 1)


@dataclass
class _UnderWay:
    """The loads that were asked for and not used, as a thread goes on."""

    waiting: dict[int, int] = field(default_factory=dict)
    """Register to bytes of the load that writes it, in the load's first register."""
    owner: dict[int, int] = field(default_factory=dict)
    groups: deque[int] = field(default_factory=deque)
    open: int = 0

    @property
    def bytes(self) -> int:
        """The bytes under way."""
        return sum(self.waiting.values()) + sum(self.groups) + self.open

    def step(self, one: Instruction, asked: int) -> None:
        """Run one instruction, which asks for so many bytes from memory."""
        for register in one.reads | one.writes:
            if register in self.owner:
                self._arrive(self.owner[register])
        if one.name == _LOAD and asked:
            written = one.writes
            self.waiting[min(written)] = asked
            self.owner |= dict.fromkeys(written, min(written))
        elif one.name == _COPY:
            self.open += asked
        elif one.name == "LDGDEPBAR":
            self.groups.append(self.open)
            self.open = 0
        elif one.name == "DEPBAR":
            allowed = int(one.operands[1], 16) if len(one.operands) > 1 else 0
            while len(self.groups) > allowed:
                self.groups.popleft()

    def _arrive(self, load: int) -> None:
        self.waiting.pop(load, None)
        self.owner = {at: of for at, of in self.owner.items() if of != load}
