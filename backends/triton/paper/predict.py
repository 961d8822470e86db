"""A launch on paper: what fits on a GPU's cores, what is under way, how long it takes.

The model has no fitted number. By Little's law what a core has under way bounds what it
reads, and a program takes no less than its bytes over what it has under way, times a
load's latency; so the last wave of programs, with cores half empty, takes long for few
bytes. Instructions take issue slots, products those of tensor cores at their peak, and
a launch what one in a recorded graph takes.
"""

import math
from dataclasses import dataclass

from glmc.backends.triton.paper.flight import Flight
from glmc.backends.triton.paper.pipes import SCHEDULERS
from glmc.backends.triton.resources import Resources, occupancy
from glmc.backends.triton.targets import LIMITS
from glmc.ir.cost import Cost

# Microseconds between two kernels of a recorded graph, measured on an H100 by
# "Look Ma, No Bubbles" (Hazy Research, 2025-05).
LAUNCH = 1.3
# Less than this part of the bare read is no limit.
_WORTH = 0.05


@dataclass(frozen=True)
class Cores:
    """The cores of a GPU (streaming multiprocessors), and its memory seen from them.

    chip       its name in ``targets.LIMITS``
    count      of them
    clock      10^9 cycles a second, boosted
    latency    nanoseconds of a load from memory while all cores read
    """

    chip: str
    count: int
    clock: float
    latency: float


@dataclass(frozen=True)
class Gpu:
    """A GPU as the prediction sees it.

    bandwidth  10^9 bytes a second of its memory
    tensor     10^12 operations a second of its tensor cores, in half precision
    """

    cores: Cores
    bandwidth: float
    tensor: float

    @property
    def needed(self) -> float:
        """The bytes that a core must have under way to read at full bandwidth."""
        return self.bandwidth * self.cores.latency / self.cores.count


@dataclass(frozen=True)
class Prediction:
    """A launch on a GPU.

    programs   of the launch
    resident   programs on a core at once, by its registers, shared memory and slots
    waves      of programs over all cores
    tail       part of the time that the last wave takes beyond its bytes' share
    under_way  bytes that a core has under way, at most
    enough     part of what it needs for full bandwidth, at most 1
    issue      issue slots of a core that reading at full bandwidth takes, in parts of
               those that there are; above 1 instructions are the limit
    time       microseconds
    limit      what lengthens the bare read most: "under way", "tail", "issue" or
               "tensor"; "read" where nothing does, "launch" where a launch takes longer
               than all of it, "few bytes" where cores have too little under way because
               there is no more to read
    """

    programs: int
    resident: int
    waves: int
    tail: float
    under_way: int
    enough: float
    issue: float
    time: float
    limit: str


def predict(
    grid: tuple[int, ...], taken: Resources, reads: Flight, cost: Cost, on: Gpu
) -> Prediction:
    """Predict a launch.

    Args:
        grid: its programs, by axis.
        taken: what its kernel takes.
        reads: how its kernel reads.
        cost: bytes that it moves, none for a launch whose op is counted with another;
            operations that it does on tensor cores.
        on: the GPU.
    """
    limits = LIMITS[on.cores.chip]
    programs = math.prod(grid)
    resident = occupancy(taken, limits) // taken.num_warps
    slots = resident * on.cores.count
    each = taken.num_warps * limits.threads * reads.under_way
    under_way = min(resident, -(-programs // on.cores.count)) * each
    enough = 1.0 if reads.bulk else min(1.0, under_way / on.needed)
    issue = _issue(reads, on) if reads.loaded else 0.0
    read = cost.nbytes / on.bandwidth / 1e3
    products, issued = _products(reads, cost, on)
    body = max(read * max(1 / enough if enough else 1.0, issue), products + issued)
    full, rest = divmod(programs, slots)
    alone = cost.nbytes / programs / each * on.cores.latency / 1e3 if each else 0.0
    last = max(body * rest / programs, alone) if rest else 0.0
    whole = max(body * full * slots / programs + last, body)
    if products:
        # Cores that have a program more than others end last.
        share = -(-programs // on.cores.count) * on.cores.count / programs
        whole = max(whole, (products + issued) * share)
    lost = {
        "under way": read / enough - read if enough else 0.0,
        "issue": max(read * issue, issued) - read,
        "tensor": products - read,
        "tail": whole - body,
    }
    worst = max(lost, key=lambda name: lost[name])
    limit = worst if lost[worst] > _WORTH * read else "read"
    if limit == "under way" and cost.nbytes < on.needed * on.cores.count:
        limit = "few bytes"
    return Prediction(
        programs=programs,
        resident=resident,
        waves=full + bool(rest),
        tail=1 - body / whole if whole else 0.0,
        under_way=under_way,
        enough=enough,
        issue=issue,
        time=whole + LAUNCH,
        limit="launch" if whole < LAUNCH else limit,
    )


def _issue(reads: Flight, on: Gpu) -> float:
    a_cycle = on.bandwidth / on.cores.count / on.cores.clock
    each = reads.work.cycles / (reads.loaded * LIMITS[on.cores.chip].threads)
    return a_cycle * each / SCHEDULERS


def _products(reads: Flight, cost: Cost, on: Gpu) -> tuple[float, float]:
    """Return microseconds of the products on tensor cores at their peak, and of issuing
    the instructions around them."""
    if not reads.work.products:
        return 0.0, 0.0
    a_cycle = on.cores.count * on.cores.clock * SCHEDULERS * 1e3
    rounds = cost.flops / reads.work.products
    return cost.flops / on.tensor / 1e6, rounds * reads.work.cycles / a_cycle
