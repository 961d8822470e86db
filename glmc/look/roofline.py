"""``glmc inspect --cost``: the least time that a call can take on a device.

Ops run one after another, so floors add up. An op's floor is its bytes over the
memory's bandwidth or its operations over the units' rate, whichever takes longer;
launches are counted and not timed. The formulas stand with the ops (``glmc.ir.cost``).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from glmc.backends.target import Target
from glmc.ir.cost import Call, Cost
from glmc.ir.errors import OptionsDisagreeError, OptionValueError
from glmc.ir.graph import Graph, Program
from glmc.ir.lower import lower
from glmc.ir.op import Op
from glmc.ir.passes.place import Place
from glmc.look.builds import Build
from glmc.look.devices import MACHINE, NETWORK, Device
from glmc.look.inspecting import size


@dataclass(frozen=True)
class Line:
    """An op of a graph; ``times`` is how often a call runs it."""

    graph: str
    op: str
    makes: str
    times: int
    cost: Cost
    launches: int
    """As the target counts them, once."""
    floor: float
    """Microseconds, once."""
    bound: str
    """``bytes``, ``flops`` or ``link``: which of them the floor comes from; empty for
    views."""
    sent: int = 0
    """Bytes that a rank sends to others, once."""


@dataclass(frozen=True)
class Total:
    """A sum over some lines."""

    nbytes: int
    flops: int
    launches: int
    floor: float
    sent: int = 0
    """Bytes that a rank sends to others."""
    collectives: int = 0
    """Times that ranks wait for one another."""


def call_of(batch: int, context: int, tokens: int) -> Call:
    """Return the call to cost.

    Raises:
        GlmcError: when there is no such call.
    """
    if batch < 1 or tokens < 1 or context < 0:
        raise OptionValueError(
            f"--batch {batch} --context {context} --tokens {tokens}: a call has at"
            " least one row and one token, and no fewer than 0 tokens before it."
        )
    return Call(batch=batch, tokens=tokens, context=context)


def lines(program: Program, call: Call, on: Device, made_for: Target) -> list[Line]:
    """List every op that does something, in order; views are left out.

    The head sees the last token of each row, as in generation.
    """
    last = Call(call.batch, 1, call.context + call.tokens - 1)
    found = []
    for graph in program.graphs:
        seen = last if graph is program.head else call
        times = len(graph.layers) or 1
        for op in graph.ops:
            if not op.is_view:
                launches = made_for.launches([op.mnemonic], seen.tokens)
                found.append(_line(program, graph, op, times, launches, seen, on))
    return found


def _line(
    program: Program,
    graph: Graph,
    op: Op,
    times: int,
    launches: int,
    call: Call,
    on: Device,
) -> Line:
    cost = op.cost(program.operand_types(graph, op), call)
    by_bytes = cost.nbytes / (on.bandwidth * 1e3)
    rate = on.flops.get(cost.dtype)
    by_flops = cost.flops / (rate * 1e6) if rate else 0.0
    sent = op.sent(program.operand_types(graph, op), call, program.ranks)
    by_link = sending(sent, program.ranks, on) if sent else 0.0
    bounds = {"bytes": by_bytes, "flops": by_flops, "link": by_link}
    bound = max(bounds, key=lambda name: bounds[name])
    return Line(
        graph=graph.name,
        op=op.mnemonic,
        makes=", ".join(op.outs),
        times=times,
        cost=cost,
        launches=launches,
        floor=bounds[bound],
        bound=bound,
        sent=sent,
    )


def sending(nbytes: int, ranks: int, on: Device) -> float:
    """Return the least microseconds in which one of so many ranks sends bytes to all
    others: within its machine by its link, and between machines, once each machine has
    summed, its part of what is left by the network."""
    within, machines = min(ranks, MACHINE), -(-ranks // MACHINE)
    everything = nbytes * ranks / (ranks - 1)
    least = 0.0
    if on.link:
        least = everything * (within - 1) / within / (on.link * 1e3)
    between = everything / within * (machines - 1) / machines
    return least + between / (NETWORK * 1e3)


def total(of: Iterable[Line], *, once: bool = False) -> Total:
    """Sum lines, each as often as it runs; or once, for one layer."""
    counted = [(line, 1 if once else line.times) for line in of]
    return Total(
        nbytes=sum(line.cost.nbytes * n for line, n in counted),
        flops=sum(line.cost.flops * n for line, n in counted),
        launches=sum(line.launches * n for line, n in counted),
        floor=sum(line.floor * n for line, n in counted),
        sent=sum(line.sent * n for line, n in counted),
        collectives=sum(n for line, n in counted if line.sent),
    )


def saved(build: Build, call: Call, on: Device) -> list[tuple[str, Total]]:
    """List the cost that each pass saved of the whole call."""
    sums = [
        (name, total(lines(build.program_at(name), call, on, build.target)))
        for name in list(build.stages)[1:]
    ]
    return [
        (
            name,
            Total(
                before.nbytes - after.nbytes,
                before.flops - after.flops,
                before.launches - after.launches,
                before.floor - after.floor,
            ),
        )
        for (_, before), (name, after) in pairwise(sums)
    ]


def dealt(build: Build, ranks: int | None) -> Program:
    """Return the program of a build, or of its model dealt to so many ranks.

    Raises:
        GlmcError: when it cannot be dealt to so many, or is already to others.
    """
    if ranks is None or ranks == build.program.ranks:
        return build.program
    if build.ranks > 1:
        raise OptionsDisagreeError(
            f"--ranks {ranks}: {build.path} is for {build.ranks} ranks already; name a"
            " build for one, or a config."
        )
    if ranks < 1:
        raise OptionValueError(f"--ranks {ranks}: give the number of ranks, such as 8.")
    lowered = lower(build.model, cuts=True)
    return list(build.target.stages(lowered, (), (Place(ranks),)))[-1].program


def facts(
    build: Build, call: Call, on: Device, ranks: int | None = None
) -> dict[str, Any]:
    """Return the roofline as plain data; times in microseconds."""
    program = dealt(build, ranks)
    shown = lines(program, call, on, build.target)
    own = program is build.program
    return {
        "ranks": program.ranks,
        "weight_bytes": _weights(program),
        "device": asdict(on),
        "call": asdict(call),
        "ops": [asdict(line) for line in shown],
        "layers": {
            graph.name: {
                "layers": len(graph.layers),
                **asdict(total(_in(graph, shown), once=True)),
            }
            for graph in program.blocks
        },
        "total": asdict(total(shown)),
        "saved": {
            name: asdict(off) for name, off in (saved(build, call, on) if own else ())
        },
    }


def _weights(program: Program) -> int:
    return sum(param.type.nbytes() for _, _, param in program.bindings())


def _in(graph: Graph, shown: Iterable[Line]) -> list[Line]:
    return [line for line in shown if line.graph == graph.name]


def text(build: Build, call: Call, on: Device, ranks: int | None = None) -> str:
    """Format the roofline for a terminal."""
    program = dealt(build, ranks)
    shown = lines(program, call, on, build.target)
    rate = on.flops.get(program.dtype)
    units = f", {rate:g} TFLOP/s in {program.dtype}" if rate else ""
    rows = [
        f"{on.name}: {on.bandwidth:g} GB/s{units} ({on.source})",
        f"batch {call.batch}, tokens {call.tokens}, context {call.context}; "
        f"floors in µs, {build.target.units} not timed",
        *_ranks(program, total(shown), on),
        "",
        _row("", "bytes", "flops", build.target.units, "floor", ""),
    ]
    for graph in program.graphs:
        of = _in(graph, shown)
        rows.append(graph.name + (f" x {len(graph.layers)}" if graph.layers else ""))
        rows += [_cost(f"  {line.op}  {line.makes}", line) for line in of]
        if graph.layers:
            rows.append(_sum("  a layer", total(of, once=True)))
    whole = total(shown)
    rows += [_sum("a call", whole), "", f"at most {_rate(call, whole)}"]
    if program is build.program:
        rows += ["", "saved"]
        rows += [_sum(f"  {name}", off) for name, off in saved(build, call, on)]
    return "\n".join(rows)


def _ranks(program: Program, whole: Total, on: Device) -> list[str]:
    """Say what one rank of several holds and sends, and what is assumed of links."""
    if program.ranks == 1:
        return []
    held, sent = size(_weights(program)), size(whole.sent)
    link = f"{on.link:g} GB/s in one direction" if on.link else "no figure: not timed"
    told = [
        f"{program.ranks} ranks, figures of one: {held} of weights, {whole.collectives}"
        f" collectives a call, in which it sends {sent}",
        f"assumed: a link of {link} ({on.source}); no latency, of which every"
        " collective has some microseconds",
    ]
    if program.ranks > MACHINE:
        told.append(
            f"assumed: machines of {MACHINE}, and between them {NETWORK:g} GB/s for"
            " each device (an adapter of 400 Gb/s each, NVIDIA's data sheet)"
        )
    return told


def _rate(call: Call, whole: Total) -> str:
    """Return the tokens a second that meeting every floor would give."""
    each = call.batch * call.tokens / whole.floor * 1e6
    return f"{each:,.0f} tokens a second"


def _cost(name: str, line: Line) -> str:
    cost = line.cost
    once = Total(cost.nbytes, cost.flops, line.launches, line.floor)
    return _sum(name, once, line.bound if line.floor else "")


def _sum(name: str, of: Total, bound: str = "") -> str:
    return _row(
        name,
        _signed(of.nbytes, "B"),
        _signed(of.flops, "F"),
        str(of.launches),
        f"{of.floor:.2f}",
        bound,
    )


def _signed(count: int, unit: str) -> str:
    return ("-" if count < 0 else "") + size(abs(count)).replace("B", unit)


def _row(name: str, *cells: str) -> str:
    nbytes, flops, launches, floor, bound = cells
    line = f"{name:<36.36} {nbytes:>9} {flops:>9} {launches:>8} {floor:>10}  {bound}"
    return line.rstrip()
