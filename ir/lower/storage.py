"""Turn a stored tensor, quantised or not, into the leaf of a recipe."""

import math

from glmc.ir import model as m
from glmc.ir.errors import UnsupportedQuantizationError
from glmc.ir.leaves import (
    DequantBlocks,
    DequantFloats,
    DequantGroups,
    DequantRows,
    Shape,
    Tensor,
)
from glmc.ir.recipe import Recipe, permute

_MX_GROUP = 32


def stored_as(storage: m.Storage | None, tensor: Tensor) -> Recipe:
    """Return the recipe that gives ``tensor``, whose sizes are those of its layout.

    Raises:
        GlmcError: when its rows cannot be packed as the storage says.
    """
    if len(tensor.stored) < 2:  # vectors are never quantised
        return tensor
    match storage:
        case m.RowQuantized():
            return _rows(storage, tensor)
        case m.BlockQuantized():
            return _blocks(storage, tensor)
        case m.GroupQuantized():
            return _groups(storage, tensor)
        case m.FloatQuantized():
            return _floats(storage, tensor)
        case m.Mxfp4Quantized():
            return _mxfp4(tensor)
    return tensor


def _rows(storage: m.RowQuantized, tensor: Tensor) -> Recipe:
    *rows, height, width = tensor.stored
    if width * storage.bits % 8:
        raise UnsupportedQuantizationError(
            f"{tensor.name} has rows of {width} weights, which do not fill whole bytes"
            f" with {storage.bits} bits each; this model has no such format"
        )
    codes = (*rows, height, width * storage.bits // 8)
    return DequantRows(
        codes=Tensor(name=tensor.name, stored=codes),
        scale=Tensor(name=tensor.name + storage.suffix, stored=(*rows, height)),
        bits=storage.bits,
    )


def _blocks(storage: m.BlockQuantized, tensor: Tensor) -> Recipe:
    *rows, height, width = tensor.stored
    match storage.block:
        case "row":
            block = (1, width)
        case "matrix":
            block = (height, width)
        case sizes:
            block = sizes
    grid = (*rows, math.ceil(height / block[0]), math.ceil(width / block[1]))
    stem = tensor.name
    if storage.suffix.startswith("."):
        stem = stem.removesuffix(".weight")
    scale = Tensor(name=stem + storage.suffix, stored=grid)
    return DequantBlocks(codes=tensor, scale=scale, block=block, sure=storage.sure)


def _groups(storage: m.GroupQuantized, tensor: Tensor) -> Recipe:
    if len(tensor.stored) != 2:
        raise UnsupportedQuantizationError(
            f"{tensor.name} is {list(tensor.stored)}, and only matrices are published"
            f" in groups of int{storage.bits}; compile the unquantised model"
        )
    height, width = tensor.stored
    group = storage.group or width
    count = math.ceil(width / group)
    stem = tensor.name.removesuffix(".weight")
    shapes = _words(storage, height, width, count, tensor.name)
    names = _NAMES["gptq" if storage.packing == "gptq_v2" else storage.packing]
    codes, scale, zeros, index = (
        Tensor(name=f"{stem}.{name}", stored=shape)
        for name, shape in zip(names, (*shapes, (width,)), strict=True)
    )
    return DequantGroups(
        codes=codes,
        scale=scale,
        zeros=zeros if storage.zeros else None,
        index=None if storage.ordered else index,
        bits=storage.bits,
        group=group,
        packing=storage.packing,
    )


_NAMES = {
    "gptq": ("qweight", "scales", "qzeros", "g_idx"),
    "awq": ("qweight", "scales", "qzeros", "g_idx"),
    "packed": ("weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx"),
    "plain": ("weight", "weight_scale", "weight_zero_point", "weight_g_idx"),
}
"""Tensor names of codes, scales, zero points and the index of groups."""


def _words(
    storage: m.GroupQuantized, height: int, width: int, count: int, name: str
) -> tuple[Shape, Shape, Shape]:
    """Return the stored shapes of codes, scales and zero points."""
    many = 32 // storage.bits
    row, column = height // many, width // many
    whole = {"packed": width, "awq": height, "gptq": width, "gptq_v2": width}
    uneven = whole.get(storage.packing, many) % many
    if uneven or (storage.zeros and storage.packing != "plain" and height % many):
        raise UnsupportedQuantizationError(
            f"{name} is {[height, width]}, which does not fill whole words with"
            f" {storage.bits} bits each; such a matrix is not read yet, so compile the"
            " unquantised model"
        )
    match storage.packing:
        case "gptq" | "gptq_v2":
            return (column, height), (count, height), (count, row)
        case "awq":
            return (width, row), (count, height), (count, row)
        case "packed":
            return (height, column), (height, count), (row, count)
        case "plain":
            return (height, width), (height, count), (height, count)


def _floats(storage: m.FloatQuantized, tensor: Tensor) -> Recipe:
    if len(tensor.stored) != 2 or not tensor.name.endswith(".weight"):
        raise UnsupportedQuantizationError(
            f"{tensor.name} is {list(tensor.stored)}, and only matrices are published"
            f" in floats of {storage.bits} bits; compile the unquantised model"
        )
    height, width = tensor.stored
    if width % storage.group:
        raise UnsupportedQuantizationError(
            f"{tensor.name} has rows of {width} weights, which are not whole groups of"
            f" {storage.group}; such a matrix is not published in floats of"
            f" {storage.bits} bits, so compile the unquantised model"
        )
    stem = tensor.name.removesuffix("weight")

    def part(name: str, *sizes: int) -> Tensor:
        return Tensor(name=stem + name, stored=sizes)

    return DequantFloats(
        codes=part(storage.codes, height, width * storage.bits // 8),
        scale=part(storage.scale, height, width // storage.group),
        factor=part(storage.factor) if storage.factor else None,
        bits=storage.bits,
        powers=storage.powers,
        divided=storage.divided,
    )


def _mxfp4(tensor: Tensor) -> Recipe:
    *rows, height, width = tensor.stored
    if height % _MX_GROUP:
        raise UnsupportedQuantizationError(
            f"{tensor.name} has {height} inputs, which are not whole groups of"
            f" {_MX_GROUP}; such a matrix is not published in mxfp4"
        )
    groups = (*rows, width, height // _MX_GROUP)
    made = DequantFloats(
        codes=Tensor(name=f"{tensor.name}_blocks", stored=(*groups, _MX_GROUP // 2)),
        scale=Tensor(name=f"{tensor.name}_scales", stored=groups),
        bits=4,
        powers=True,
    )
    dims = range(len(tensor.stored))
    return permute(made, (*dims[:-2], dims[-1], dims[-2]))
