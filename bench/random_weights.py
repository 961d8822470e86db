"""Models with seeded random weights, made on their device: no checkpoint is read."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

#: Codes and floats have the spread of a trained matrix, more or less.
SPREAD = 0.02


def import_build(folder: Path) -> ModuleType:
    """A build by its folder, whose name is its module's."""
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    return importlib.import_module(folder.name)


def random_model(
    build: ModuleType, device: str, dtype: torch.dtype, seed: int = 0
) -> Any:
    """The build's model, every parameter filled by name and shape.

    Norm weights are 1, biases 0; matrices are normal with a spread of 0.02, codes
    uniform, and scales such that codes times scales have that spread.
    """
    loading = importlib.import_module(f"{build.__name__}.loading")
    binds = importlib.import_module(f"{build.__name__}.weights").WEIGHTS
    dtypes = {
        one.path: loading.dtype_of(one, dtype) for bind in binds for one in bind.each()
    }
    with torch.device("meta"):
        model = build.Model()
    generator = torch.Generator(device).manual_seed(seed)
    for path, meta in list(model.named_parameters()):
        weight = torch.empty(meta.shape, dtype=dtypes[path], device=device)
        loading.set_parameter(model, path, _filled(path, weight, generator))
    return model.eval()


def _filled(
    path: str, weight: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    name = path.rpartition(".")[2]
    if weight.dtype == torch.int8:
        return weight.random_(-128, 128, generator=generator)
    if name.endswith("_scale"):
        return weight.fill_(SPREAD / 74)
    if name.endswith("bias"):
        return weight.zero_()
    if weight.ndim == 1:
        return weight.fill_(1.0)
    return weight.normal_(std=SPREAD, generator=generator)
