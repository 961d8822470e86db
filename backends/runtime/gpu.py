"""The needs of a GPU beside a build's operations; see `modules.Machine`."""

from types import ModuleType

import torch

from .graphs import CudaGraphs
from .modules import BaseModel
from .precompiled import offer
from .tuning import apply_tuning, present_target


def ready(kernels: ModuleType) -> None:
    """Gives kernels the tiles that were measured on this GPU."""
    apply_tuning(kernels, present_target())


def loaded(model: BaseModel) -> None:
    """Offers Triton the kernels that were compiled with the build."""
    offer(model.device)


def recorder(device: torch.device) -> CudaGraphs:
    """Returns the recorder of decode steps on a device."""
    return CudaGraphs(device)
