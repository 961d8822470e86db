"""Evaluate recipes: compute the tensors that parameters are filled with."""

import torch

from .recipes import (
    Cat,
    Permute,
    Quantized,
    Read,
    Recipe,
    Repacked,
    Slice,
    Stack,
    Tensor,
    View,
)


def evaluate(
    recipe: Recipe,
    read: Read,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Computes the tensor a recipe describes; a view of what `read(name)` returns where
    the steps allow it. `dtype` is that of dequantised weights, float32 by default."""
    match recipe:
        case str():
            return read(recipe)
        case Tensor(name, _):
            return read(name)
        case Cat(parts, dim):
            return torch.cat([evaluate(part, read, dtype) for part in parts], dim)
        case Slice(of, dim, start, stop):
            return evaluate(of, read, dtype).narrow(dim, start, stop - start)
        case View(of, shape):
            return evaluate(of, read, dtype).reshape(shape)
        case Permute(of, dims):
            return evaluate(of, read, dtype).permute(dims)
        case Stack(parts):
            return torch.stack([evaluate(part, read, dtype) for part in parts])
        case Quantized():
            return recipe.weights(read, dtype or torch.float32, slice(None))
        case Repacked(of, part):
            return of.kept(part, read, slice(None))
