"""What recipes describe: the tensors that parameters are filled with."""

from collections.abc import Callable
from typing import TypeAlias

import torch

from .quantization import (
    code_rows,
    dequantize_blocks,
    dequantize_mxfp4,
    dequantize_rows,
    grouped,
    pack_codes,
    scale_rows,
    zero_rows,
)
from .recipes import (
    Cat,
    Dequant,
    DequantBlocks,
    DequantGroups,
    DequantMxfp4,
    DequantRows,
    Kept,
    Permute,
    Quantized,
    Recipe,
    Slice,
    Stack,
    Tensor,
    View,
)
from .shapes import kept_shape, weight_shape

Read: TypeAlias = Callable[[str], torch.Tensor]


def evaluate(
    recipe: Recipe,
    read: Read,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The tensor a recipe describes; a view of what `read(name)` returns where the
    steps allow it. `dtype` is that of dequantised weights, float32 by default."""
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
            return dequantized(recipe, read, dtype)
        case Kept():
            return kept(recipe, read)


def dequantized(
    recipe: Dequant,
    read: Read,
    dtype: torch.dtype | None = None,
    rows: slice = slice(None),
) -> torch.Tensor:
    """The weights that quantised tensors stand for, of a matrix those of some `rows`,
    which begin where a block does."""
    dtype = dtype or torch.float32
    codes, scale = read(recipe.codes.name), read(recipe.scale.name)
    scale = scale.reshape(recipe.scale.shape)
    match recipe:
        case DequantRows(bits=bits):
            return dequantize_rows(codes[rows], scale[rows], dtype, bits)
        case DequantBlocks(block=block):
            scale = scale[(rows.start or 0) // block[0] :]
            return dequantize_blocks(codes[rows], scale, dtype, block)
        case DequantGroups(zeros=zeros, index=index):
            groups = grouped(
                codes,
                scale,
                read(zeros.name) if zeros else None,
                read(index.name) if index else None,
                bits=recipe.bits,
                packing=recipe.packing,
                rows=rows,
            )
            return groups.weights(recipe.group, dtype)
        case DequantMxfp4():
            return dequantize_mxfp4(codes, scale, dtype)


def kept(recipe: Kept, read: Read, rows: slice = slice(None)) -> torch.Tensor:
    """A part of quantised weights, as ops read it; of some `rows`."""
    of = recipe.of
    packing = of.packing if isinstance(of, DequantGroups) else "rows"
    if recipe.part == "codes":
        codes = code_rows(read(of.codes.name), of.bits, packing, rows)
        return pack_codes(codes, of.bits)
    if recipe.part == "zeros":
        assert isinstance(of, DequantGroups)
        assert of.zeros
        return zero_rows(read(of.zeros.name), of.bits, packing, rows)
    scale = read(of.scale.name).reshape(of.scale.shape)
    height, _ = weight_shape(of)
    return scale_rows(scale, packing, rows).reshape(
        -1, *kept_shape(of, "scale", (height, 0))[1:]
    )


def row_step(recipe: Dequant | Kept) -> int:
    """Rows that a matrix can be cut into: those of a block, or of a word of codes."""
    match recipe:
        case Kept(of):
            return row_step(of)
        case DequantBlocks(block=(height, _)):
            return height
        case DequantGroups(bits=bits):
            return 32 // bits
    return 1
