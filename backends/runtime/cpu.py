"""The needs of CPUs beside a build's operations; see `modules.Machine`."""

from collections.abc import Callable
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
    blocks = frozenset(paths())

    def pack(path: str, weight: torch.Tensor) -> torch.Tensor:
        return PackedWeight.pack(weight, kernels) if path in blocks else weight

    return pack


def paths() -> list[str]:
    """Lists the weights that lie in blocks, by their attribute paths."""
    own = steps()
    found = [name for name, kind in own.MODEL if kind == "blocks"]
    for layer, kind in enumerate(own.SCHEDULE):
        parts = (name for name, way in own.LAYERS[kind] if way == "blocks")
        found += [f"layers.{layer}.{name}" for name in parts]
    return found


def loaded(model: BaseModel) -> None:
    """Gives a model its engine, where there is a library."""
    if any(isinstance(weight, PackedWeight) for weight in model.parameters()):
        Engine.attach(model, library(model.dtype), steps())


def recorder(device: torch.device) -> "Recorder | None":
    """Steps are not recorded: a token is one call as it is."""
    return None
