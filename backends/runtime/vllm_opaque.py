"""Operations that a compiled graph calls as they are."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch

from .vllm_interface import device_type


def opaque(op: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Returns an operation that torch.compile does not look into: on a CPU one that
    looks at values, such as which experts were chosen, and whose result is like its
    first argument. Those for GPUs do not, and stay as they are."""
    return op if device_type() != "cpu" else _opaque(op)


def _opaque(op: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    parameters = inspect.signature(op).parameters
    first = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [name for name in parameters if name not in first]
    defaults = [(name, p.default) for name, p in parameters.items()]

    def call(*given: Any) -> torch.Tensor:
        said = dict(zip(named, given[len(first) :], strict=True))
        return op(*given[: len(first)], **said)

    # An operation of torch takes no tensors by keyword: all its arguments are given in
    # order, also those that have defaults.
    schema = torch.library.infer_schema(op, mutates_args=())
    schema = re.sub(r"=[^,)]+", "", schema.replace(" *,", ""))
    package = (__package__ or "build").replace(".", "_")
    made: Any = torch.library.custom_op(
        f"{package}::{op.__name__}", call, mutates_args=(), schema=schema
    )
    made.register_fake(lambda x, *_: torch.empty_like(x))

    def run(*given: Any, **said: Any) -> torch.Tensor:
        rest = [said.get(name, default) for name, default in defaults[len(given) :]]
        found: torch.Tensor = made(*given, *rest)
        return found

    return run
