"""``glmc inspect --kernels``: what a GPU will do with each launch, told from binaries.

Nothing is measured: kernels are compiled for the GPU, their machine code is read, and a
model of five terms (``glmc.backends.triton.paper``) says what bounds each launch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from glmc.backends.triton.paper.predict import LAUNCH, Gpu
from glmc.ir.cost import Call
from glmc.ir.errors import OptionValueError
from glmc.ir.graph import Graph
from glmc.ir.op import Op
from glmc.look.builds import Build
from glmc.look.devices import DEVICES, Device
from glmc.look.inspecting import size

if TYPE_CHECKING:
    from glmc.backends.triton.paper.sheet import Line


@dataclass(frozen=True)
class Launch:
    """A launch of an op in a graph, ``times`` in a call."""

    graph: str
    op: str
    makes: str
    times: int
    line: "Line"


def launches(build: Build, call: Call, on: Device) -> list[Launch]:
    """Predict every launch of a call, in order.

    Args:
        build: what was compiled for GPUs.
        call: the call; one token of each row is decode.
        on: a GPU of NVIDIA.

    Raises:
        GlmcError: for a build or a device without kernels of which machine code is
            read, and where Triton, which compiles them, is missing.
    """
    gpu = gpu_of(on)
    if build.target.on_paper is None:
        raise OptionValueError(
            f"--kernels: {build.path} is of the target {build.target.name!r}, which"
            " has no kernels for GPUs. Compile with --target cuda or any."
        )
    own = [row.op for row in build.placements if row.where == "own"]
    ops = [(graph, op) for graph in build.program.graphs for op in graph.ops]
    lines = build.target.on_paper(
        build.source("kernels.py"), build.program, build.model.dtype, call, gpu, own
    )
    return [_launch(*ops[line.op], line) for line in lines]


def gpu_of(on: Device) -> Gpu:
    """Return a device as the prediction sees it.

    Raises:
        GlmcError: for one of which the cores are not known.
    """
    if on.cores is None:
        known = ", ".join(name for name, row in DEVICES.items() if row.cores)
        raise OptionValueError(
            f"--kernels: nothing is known of the cores of {on.name}. The devices are"
            f" {known}."
        )
    return Gpu(on.cores, on.bandwidth, on.flops["bf16"])


def _launch(graph: Graph, op: Op, line: "Line") -> Launch:
    times = len(graph.layers) or 1
    return Launch(graph.name, op.mnemonic, ", ".join(op.outs), times, line)


def facts(found: Sequence[Launch], call: Call, on: Device) -> dict[str, Any]:
    """Return launches as plain data; times in microseconds."""
    return {
        "device": asdict(on),
        "call": asdict(call),
        "launch": LAUNCH,
        "launches": [_plain(launch) for launch in found],
        "total": _total(found),
    }


def _plain(launch: Launch) -> dict[str, Any]:
    line = launch.line
    return {
        "graph": launch.graph,
        "op": launch.op,
        "makes": launch.makes,
        "times": launch.times,
        "kernel": line.launched.spec.kernel,
        "constants": dict(line.launched.spec.constants),
        "grid": line.launched.grid,
        "resources": asdict(line.resources),
        "reads": asdict(line.reads),
        **asdict(line.predicted),
    }


def _total(found: Iterable[Launch]) -> float:
    return sum(launch.line.predicted.time * launch.times for launch in found)


HEADER = (
    "kernel",
    "programs",
    "warps",
    "on a core",
    "waves",
    "tail",
    "loads",
    "under way",
    "enough",
    "issue",
    "µs",
    "limit",
)


def text(found: Sequence[Launch], call: Call, on: Device) -> str:
    """Lay out launches for a terminal."""
    gpu = gpu_of(on)
    cores = gpu.cores
    table = [HEADER, *(_cells(launch) for launch in found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rows = [_row(cells, widths) for cells in table]
    shown = [rows[0]]
    for at, launch in enumerate(found):
        if at == 0 or (launch.graph, launch.makes) != _of(found[at - 1]):
            times = f" x {launch.times}" if launch.times > 1 else ""
            shown.append(f"{launch.graph}{times}  {launch.op}  {launch.makes}")
        shown.append("  " + rows[at + 1])
    whole = _total(found)
    count = sum(launch.times for launch in found)
    return "\n".join(
        [
            f"{on.name}: {cores.count} cores at {cores.clock:g} GHz, {gpu.bandwidth:g}"
            f" GB/s ({on.source}), {cores.latency:g} ns a load: a core needs"
            f" {size(round(gpu.needed))} under way",
            f"batch {call.batch}, tokens {call.tokens}, context {call.context};"
            f" predicted, nothing measured; a launch takes {LAUNCH:g} µs",
            "",
            *shown,
            "",
            f"{count} launches, {whole:,.0f} µs: at most"
            f" {call.batch * call.tokens / whole * 1e6:,.0f} tokens a second",
        ]
    )


def _of(launch: Launch) -> tuple[str, str]:
    return launch.graph, launch.makes


def _cells(launch: Launch) -> tuple[str, ...]:
    line, seen = launch.line, launch.line.predicted
    return (
        line.launched.spec.kernel.removesuffix("_kernel"),
        f"{seen.programs:,}",
        str(line.resources.num_warps),
        str(seen.resident),
        str(seen.waves),
        f"{seen.tail:.0%}",
        _loads(line.reads.widths, line.reads.bulk),
        size(seen.under_way),
        f"{seen.enough:.0%}",
        f"{seen.issue:.2f}",
        f"{seen.time:.1f}",
        seen.limit,
    )


def _loads(widths: dict[int, int], bulk: bool) -> str:
    shown = [f"{count}x{bits}" for bits, count in sorted(widths.items(), reverse=True)]
    return ", ".join([*shown, *(["TMA"] if bulk else [])]) or "-"


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    texts = [
        cell.ljust(width) if at in (0, 6, 11) else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(texts).rstrip()
