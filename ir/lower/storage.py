"""How a weight is stored, as the leaf of its recipe."""

import math

from glmc.ir import model as m
from glmc.ir.errors import UnsupportedQuantizationError
from glmc.ir.recipe import DequantBlocks, DequantRows, Recipe, Tensor


def stored_as(storage: m.Storage | None, tensor: Tensor) -> Recipe:
    """The recipe that gives ``tensor``, whose sizes are those its layout says.

    Raises:
        GlmcError: when its rows cannot be packed as the storage says.
    """
    if storage is None or len(tensor.stored) < 2:  # vectors are never quantised
        return tensor
    *rows, height, width = tensor.stored
    name = tensor.name + storage.suffix
    if isinstance(storage, m.BlockQuantized):
        sizes = zip((height, width), storage.block, strict=True)
        grid = (*rows, *(math.ceil(size / block) for size, block in sizes))
        scale = Tensor(name=name, stored=grid)
        return DequantBlocks(codes=tensor, scale=scale, block=storage.block)
    if width * storage.bits % 8:
        raise UnsupportedQuantizationError(
            f"{tensor.name} has rows of {width} weights, which do not fill whole bytes"
            f" with {storage.bits} bits each; this model has no such format"
        )
    codes = (*rows, height, width * storage.bits // 8)
    return DequantRows(
        codes=Tensor(name=tensor.name, stored=codes),
        scale=Tensor(name=name, stored=(*rows, height)),
        bits=storage.bits,
    )
