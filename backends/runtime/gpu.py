"""The needs of a GPU beside a build's operations; see `modules.Machine`."""

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from .modules import BaseModel
from .tuning import apply_tuning, present_target

if TYPE_CHECKING:
    from .graphs import Recorder


def ready(kernels: ModuleType) -> None:
    """Gives kernels the tiles that were measured on this GPU, and fits them to it.

    With `GLMC_PDL=0` in the environment no launch begins before the one before it ends.
    """
    apply_tuning(kernels, present_target())
    if hasattr(kernels, "fit"):
        kernels.fit(torch.cuda.get_device_properties("cuda").multi_processor_count)
    if os.environ.get("GLMC_PDL") == "0" and hasattr(kernels, "PDL"):
        kernels.__dict__["PDL"] = ()


def packing(dtype: torch.dtype) -> None:
    """Weights stay as they are."""


def loaded(model: BaseModel) -> None:
    """Offers Triton the kernels that were compiled with the build, if some were."""
    if Path(__file__).with_name("aot").is_dir():
        import_module(".precompiled", __package__).offer(model.device)


def recorder(device: torch.device) -> "Recorder":
    """Returns the recorder of decode steps on a device; builds that do not decode have
    no module of it, and never ask."""
    made: Recorder = import_module(".graphs", __package__).CudaGraphs(device)
    return made
