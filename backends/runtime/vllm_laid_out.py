"""Weights as vLLM's products for CPUs read them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .vllm_interface import lay_out_for_cpu


class Product(nn.Module):
    """A product with a weight [O, I], which is laid out anew and let go."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        holder = nn.Module()
        holder.weight = weight
        lay_out_for_cpu(holder, remove_weight=True)
        # What is left of the weight: nothing, or all where vLLM has no layout for it.
        # No parameter any more: vLLM asks which of these were filled.
        self.weight = holder.weight.data
        self.multiply: Any = holder.cpu_linear

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Returns `x` [..., I] times the weight [..., O]."""
        made: torch.Tensor = self.multiply(x, self.weight, bias)
        return made


def lay_out(model: nn.Module, names: Iterable[str]) -> None:
    """Puts a `Product` in the place of each parameter of a model and its layers that
    has one of these names and holds floats."""
    layers = model.get_submodule("layers").children()
    for module in (model, *layers):
        held = dict(module.named_parameters(recurse=False))
        for name in held.keys() & names:
            weight = held[name]
            if weight.is_floating_point() and weight.dim() == 2:
                delattr(module, name)
                module.add_module(name, Product(weight))
