"""What every emitted model is made of, whatever it answers."""

import functools
import importlib
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

from .tuning import apply_tuning, present_target


def parameter(*shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
    """An uninitialised weight; loading gives it its values and, without `dtype`, the
    dtype of the model."""
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


@functools.cache
def operations(device_type: str) -> ModuleType:
    """The build's module of operations for a kind of device."""
    if device_type != "cuda":
        return importlib.import_module(".reference", __package__)
    kernels = importlib.import_module(".kernels", __package__)
    apply_tuning(kernels, present_target())
    return kernels


def item(output: tuple[Any, ...], key: Any) -> Any:
    """A field of a named tuple by name, or items by index or slice."""
    return getattr(output, key) if isinstance(key, str) else tuple(output)[key]


class Block(nn.Module):
    """A module that shows its own weights when it is printed."""

    def extra_repr(self) -> str:
        return "\n".join(
            f"{name}: {str(weight.dtype).removeprefix('torch.')}{list(weight.shape)}"
            for name, weight in self.named_parameters(recurse=False)
        )


class BaseModel(Block):
    """What models that answer differently have in common."""

    #: Positions that exist (learned embeddings), or None where any will do.
    max_positions: ClassVar[int | None] = None
    vocab_size: ClassVar[int]
    default_dtype: ClassVar[torch.dtype]

    #: The module of operations; None takes the build's `kernels` on a GPU and its
    #: `reference` elsewhere.
    ops: ModuleType | None = None

    def keep_cache_as(self, name: str) -> None:
        """Says what keys and values are kept as. Raises ValueError: there are none."""
        raise ValueError(
            f"cache_dtype={name!r} is for models that generate, which keep keys and "
            "values of the tokens before; this model keeps none. Leave it out."
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; codes of quantised ones have their own."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())
