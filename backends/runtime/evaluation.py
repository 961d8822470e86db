"""Evaluate recipes: compute the tensors that parameters are filled with."""

import torch

from .recipes import Cat, Quantized, Read, Recipe, Repacked, Stack, Step, Tensor


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
        case Step(of):
            return recipe.taken(evaluate(of, read, dtype))
        case Stack(parts):
            return torch.stack([evaluate(part, read, dtype) for part in parts])
        case Quantized():
            return recipe.weights(read, dtype or torch.float32, slice(None))
        case Repacked(of, part):
            return of.kept(part, read, slice(None))
