"""The needs of CPUs beside a build's operations; see `modules.Machine`."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from .checkpoint import Checkpoint, dtype_of
from .engine import Engine
from .large_pages import LINE, Room
from .modules import BaseModel
from .native import NoLibrary, library, told
from .packed import PackedWeight
from .packed_file import Entry, PackedFile, key_of
from .recipes import Bind

if TYPE_CHECKING:
    from .graphs import Recorder

KINDS = ("blocks", "stack", "codes8", "codes4", "scales", "zeros")


def ready(operations: ModuleType) -> None:
    """Does nothing: the reference is ready as it is."""


def steps() -> ModuleType:
    """Returns the module that describes the C++ of the build."""
    return import_module(".steps", __package__)


def room(binds: Sequence[Bind], dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    """Returns what gives weights memory, by shape and dtype: large pages, where the
    system has them."""
    sizes = (math.prod(bind.shape) * dtype_of(bind, dtype).itemsize for bind in binds)
    with suppress(OSError):  # a system that promises no memory it might not have
        return Room(sum(size + LINE for size in sizes)).tensor
    return torch.empty


def packing(
    dtype: torch.dtype,
) -> Callable[[str, torch.Tensor], torch.Tensor] | None:
    """Returns what lays a weight out as kernels read it, given its path and the weight
    in its published order, whose memory it may take. None where no kernels run."""
    if steps().MODEL is None:
        return None
    try:
        kernels = library(dtype)
    except NoLibrary as reason:
        told(str(reason))
        return None
    kinds = dict(paths())

    def pack(path: str, weight: torch.Tensor) -> torch.Tensor:
        kind = kinds.get(path)
        if kind is None:
            return weight
        try:
            return PackedWeight.pack(weight, kind, kernels)
        except (MemoryError, RuntimeError) as error:
            if "memory" not in f"{type(error).__name__} {error}".lower():
                raise
            told(f"there was not enough memory to pack {path}")
            kinds.clear()
            return weight

    return pack


def packed_file(
    place: bool | str | Path,
    name: str,
    binds: Sequence[Bind],
    checkpoint: Checkpoint,
    dtype: torch.dtype,
) -> PackedFile | None:
    """Returns the file for the packed weights of a checkpoint, in the folder `place`,
    or with True beside the build. None where no kernels run."""
    if steps().MODEL is None:
        return None
    with suppress(NoLibrary):  # `packing` tells of it
        kernels = library(dtype)
        kinds = dict(paths())
        entries = {
            bind.path: Entry(bind.shape, dtype_of(bind, dtype), kinds.get(bind.path))
            for bind in binds
        }
        own = Path(__file__).parent / "packed"
        folder = own if isinstance(place, bool) else Path(place)
        key = key_of(binds, checkpoint, dtype, Path(kernels._name).name)
        return PackedFile(folder / f"{name}.safetensors", key, entries, kernels)
    return None


def paths() -> Iterator[tuple[str, str]]:
    """Yields the attribute paths of the weights that are packed, and their kinds."""
    own = steps()
    yield from ((name, kind) for name, kind in own.MODEL if kind in KINDS)
    for layer, block in enumerate(own.SCHEDULE):
        for name, kind in own.LAYERS[block]:
            if kind in KINDS:
                yield f"layers.{layer}.{name}", kind


def loaded(model: BaseModel) -> None:
    """Gives a model its engine, where there is a library."""
    if steps().MODEL is None:
        return
    packed = [
        isinstance(model.get_parameter(path), PackedWeight) for path, _ in paths()
    ]
    if packed and all(packed):
        Engine.attach(model, library(model.dtype), steps())


def recorder(device: torch.device) -> "Recorder | None":
    """Steps are not recorded: a token is one call as it is."""
    return None
