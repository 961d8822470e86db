"""Record a decode step once as a CUDA graph, and replay it for every token.

A graph holds the launches of a step with all their arguments, addresses and numbers. It
serves later tokens only if the step takes nothing from the host: `refusal` finds out,
on any device, by running it where such a look raises.
"""

import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .cache import Cache, HostRead
from .state import State

Run = Callable[[], None]

INDEXING = (
    torch.ops.aten.index,
    torch.ops.aten.index_put,
    torch.ops.aten.index_put_,
)


class Recorder(Protocol):
    """A recorder of steps: `CudaGraphs`, or a test's stand-in."""

    def refusal(self, run: Run, cache: Cache) -> str | None:
        """Runs a step; returns why it cannot be recorded, or None."""

    def warm(self, run: Run) -> None:
        """Runs a step as it will be recorded, so that all it compiles and allocates
        once is there."""

    def record(self, run: Run, generator: torch.Generator | None) -> Run:
        """Records a step; returns a function that repeats it. `generator` is what it
        draws from, None for torch's own."""


class CudaGraphs:
    """Records steps on `device` as CUDA graphs, which share their memory: no step
    leaves anything there that the next one reads."""

    def __init__(self, device: torch.device):
        self.device = device
        # Not typed in every torch: this and the two below.
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call, unused-ignore]
        self.pool = torch.cuda.graph_pool_handle()

    def refusal(self, run: Run, cache: Cache) -> str | None:
        """See the function of this name."""
        return refusal(run, cache)

    def warm(self, run: Run) -> None:
        """See `Recorder`; on the stream that will record."""
        usual = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            run()
        usual.wait_stream(self.stream)

    def record(self, run: Run, generator: torch.Generator | None) -> Run:
        """See `Recorder`. Raises RuntimeError where CUDA cannot record the step."""
        graph = torch.cuda.CUDAGraph()
        if generator is not None:
            graph.register_generator_state(generator)
        # Other threads may go on using the GPU meanwhile.
        mode = "thread_local"
        with torch.cuda.graph(
            graph, pool=self.pool, stream=self.stream, capture_error_mode=mode
        ):
            run()
        return graph.replay


def refusal(run: Run, cache: Cache) -> str | None:
    """Runs a step; returns why it cannot be recorded, or None.

    The reason names the function that needs a value on the host.
    """
    try:
        watch = Watch()  # type: ignore[no-untyped-call, unused-ignore]
        with cache.on_device(), watch:
            run()
    except HostRead as error:
        return f"{_asker(error)} {error}"
    return None


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Raises HostRead where a torch op waits for a value of the device, or makes a
    tensor whose size depends on one."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        why = waits(func, args, given)
        if why:
            raise HostRead(f"{why} ({func})")
        return func(*args, **given)


def waits(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Returns why an op cannot be recorded, or None."""
    if torch.Tag.data_dependent_output in func.tags:
        return "waits for a value of the device"
    indexing = func.overloadpacket in INDEXING
    if _masked(args[1]) if indexing else torch.Tag.dynamic_output_shape in func.tags:
        return "makes a tensor whose size depends on values"
    if len(_places(args, kwargs)) > 1:
        return "copies between devices"
    return None


def _masked(indices: Iterable[torch.Tensor | None]) -> bool:
    """Tells whether some index is a mask, which decides on the size of the result."""
    masks = (torch.bool, torch.uint8)
    return any(index is not None and index.dtype in masks for index in indices)


def _places(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> set[str]:
    """Returns the kinds of device that an op reads and writes; numbers that lie in a
    tensor of the host go along with a launch."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
    places = {t.device.type for t in tensors if t.ndim or t.device.type != "cpu"}
    to = kwargs.get("device")
    return places | ({torch.device(to).type} if to is not None and places else set())


def _asker(error: HostRead) -> str:
    """Names the innermost function of the model:
    `rope_table_dynamic (reference.py)`."""
    ours = {__file__, *(sys.modules[of.__module__].__file__ for of in (Cache, State))}
    torchs = str(Path(torch.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    found = [
        frame
        for frame in frames
        if frame.filename not in ours and not frame.filename.startswith(torchs)
    ]
    return f"{found[-1].name} ({Path(found[-1].filename).name})" if found else "a step"
