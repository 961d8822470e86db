"""The needs of CPUs beside a build's operations; see `modules.Machine`."""

from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from .engine import Engine
from .modules import BaseModel
from .native import NoLibrary, library, told
from .packed import PackedWeight

if TYPE_CHECKING:
    from .graphs import Recorder

KINDS = ("blocks", "codes8", "codes4", "scales", "zeros")


def ready(operations: ModuleType) -> None:
    """Does nothing: the reference is ready as it is."""


def steps() -> ModuleType:
    """Returns the module that describes the C++ of the build."""
    return import_module(".steps", __package__)


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
        return weight if kind is None else PackedWeight.pack(weight, kind, kernels)

    return pack


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
    if any(isinstance(weight, PackedWeight) for weight in model.parameters()):
        Engine.attach(model, library(model.dtype), steps())


def recorder(device: torch.device) -> "Recorder | None":
    """Steps are not recorded: a token is one call as it is."""
    return None
