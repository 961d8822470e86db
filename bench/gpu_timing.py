"""Time a function on a device, and measure how fast its memory can be read."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Run = Callable[[], object]


class Clock:
    """Times work on a device, waiting for it to end; `quick` takes few samples."""

    def __init__(self, device: str, quick: bool = False) -> None:
        self.device = torch.device(device)
        self.gpu = self.device.type == "cuda"
        self.samples = 2 if quick else 15
        self.least = 0.0 if quick else 2e-3

    def wait(self) -> None:
        """Until all that was begun has ended."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def once(self, run: Run) -> float:
        """Seconds of one run by the wall clock."""
        self.wait()
        started = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - started

    def median(self, run: Run) -> float:
        """Seconds of a run: the median of samples that repeat it for at least 2 ms."""
        run()
        repeats = max(1, int(self.least / max(self.once(run), 1e-7)))

        def several() -> None:
            for _ in range(repeats):
                run()

        times = [self.once(several) / repeats for _ in range(self.samples)]
        return statistics.median(times)

    def launched(self, run: Run) -> Run:
        """`run` as a CUDA graph, so that Python's time is not in the figure; itself
        where that cannot be or there is no GPU."""
        if not self.gpu:
            return run
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                run()
        except RuntimeError as error:
            print(f"timed without a graph: {str(error).partition(chr(10))[0]}")
            self.wait()
            return run
        return graph.replay


def interleaved(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, float]:
    """The median of each one's figures; they take turns, so that what disturbs one
    disturbs all."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, turn in contenders.items():
            found[name].append(turn())
    return {name: statistics.median(figures) for name, figures in found.items()}


def streaming_read(clock: Clock, size: int) -> float:
    """10^9 bytes a second at which `size` bytes are read: the better of torch's sum and
    a Triton kernel that only reads."""
    data = torch.ones(size // 4, dtype=torch.float32, device=clock.device)
    ways: list[Run] = [data.sum]
    if clock.gpu:
        ways.append(_triton_read(data))
    return size / min(clock.median(clock.launched(way)) for way in ways) / 1e9


def _triton_read(data: torch.Tensor) -> Run:
    import gpu_read  # triton.jit wants its source in a file of its own

    out = data.new_empty(-(-data.numel() // gpu_read.BLOCK))
    return lambda: gpu_read.read(data, out)
