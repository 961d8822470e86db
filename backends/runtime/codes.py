"""Codes and scales of a checkpoint: the weights they stand for, and the parts that ops
read.

Only builds of quantised checkpoints have this; the arithmetic is in `quantization`.
"""

import math
from dataclasses import dataclass

import torch

from .faults import WeightsError
from .quantization import (
    Groups,
    block_scales,
    code_rows,
    dequantize_blocks,
    dequantize_floats,
    dequantize_rows,
    float_codes,
    grouped,
    pack_codes,
    round_groups,
    scale_rows,
    unpack_codes,
    zero_rows,
)
from .recipes import Quantized, Read, Repacked, Shape, Tensor
from .storage import float_name


def _columns(part: str, kept: torch.Tensor, of: slice, bits: int) -> torch.Tensor:
    """Cuts columns out of a part. Codes are packed in an order that depends on how many
    there are in a row, so they are unpacked before."""
    if part != "codes":
        return kept[:, of]
    one = slice(of.start * 8 // bits, of.stop * 8 // bits)
    return pack_codes(unpack_codes(kept, bits)[:, one], bits)


@dataclass(frozen=True)
class Scaled(Quantized):
    """Codes with a scale beside them."""

    scale: Tensor


class Matrix(Scaled):
    """Weights [O, I] whose integer codes ops may read as they are."""

    bits: int
    #: Where the codes lie in a word; see `quantization.code_rows`.
    packing: str

    def kept_shape(self, part: str) -> Shape:
        height, width = self.shape()
        if part == "codes":
            return (height, width * self.bits // 8)
        count = math.prod(self.scale.shape) // height
        alone = count == 1 and "zeros" not in self.parts()
        return (height,) if alone else (height, count)

    def kept_columns(self, part: str, kept: torch.Tensor, of: slice) -> torch.Tensor:
        return _columns(part, kept, of, self.bits)

    def kept(self, part: str, read: Read, rows: slice) -> torch.Tensor:
        if part == "codes":
            codes = code_rows(read(self.codes.name), self.bits, self.packing, rows)
            return pack_codes(codes, self.bits)
        if part == "zeros":
            zeros = read(self.parts()["zeros"].name)
            return zero_rows(zeros, self.bits, self.packing, rows)
        found = scale_rows(_scale(self, read), self.packing, rows)
        return found.reshape(-1, *self.kept_shape("scale")[1:])


@dataclass(frozen=True)
class DequantRows(Matrix):
    """int8 `codes`, or int4 ones two to a byte, times the `scale` of their row."""

    bits: int

    alone = False
    packing = "rows"

    def shape(self) -> Shape:
        *rows, width = self.codes.shape
        return (*rows, width * 8 // self.bits)

    def weights(self, read: Read, dtype: torch.dtype, rows: slice) -> torch.Tensor:
        codes, scale = read(self.codes.name), _scale(self, read)
        return dequantize_rows(codes[rows], scale[rows], dtype, self.bits)


@dataclass(frozen=True)
class DequantBlocks(Scaled):
    """float8 `codes` times the `scale` of their block of rows and columns.

    Where a checkpoint holds `codes` as plain floats, `scale` is not read; not so where
    they are `sure` to be codes.
    """

    block: tuple[int, int]
    sure: bool = False

    def together(self) -> int:
        return self.block[0]

    def kept_columns(self, part: str, kept: torch.Tensor, of: slice) -> torch.Tensor:
        return _columns(part, kept, of, 8)

    def kept_shape(self, part: str) -> Shape:
        height, width = self.shape()
        if part == "codes":
            return (height, width)
        count = self.scale.shape[-1]
        return (height,) if count == 1 else (height, count)

    def kept(self, part: str, read: Read, rows: slice) -> torch.Tensor:
        if part == "codes":
            return _float_codes(read(self.codes.name)[rows], self.codes.name, 8)
        scale = block_scales(_scale(self, read), self.shape()[0], self.block[0])[rows]
        return scale.reshape(-1, *self.kept_shape(part)[1:])

    def dtypes(self) -> dict[str, str]:
        return {"codes": "F8_E4M3"}

    def weights(self, read: Read, dtype: torch.dtype, rows: slice) -> torch.Tensor:
        scale = _scale(self, read)[(rows.start or 0) // self.block[0] :]
        return dequantize_blocks(read(self.codes.name)[rows], scale, dtype, self.block)


@dataclass(frozen=True)
class DequantGroups(Matrix):
    """int4 or int8 `codes`, less the zero point and times the scale that `group`
    columns of a row share."""

    bits: int
    group: int
    packing: str
    zeros: Tensor | None = None
    index: Tensor | None = None

    def dtypes(self) -> dict[str, str]:
        word = "I8" if self.packing == "plain" else "I32"
        return {"codes": word, "zeros": word, "index": "I32"}

    def weights(self, read: Read, dtype: torch.dtype, rows: slice) -> torch.Tensor:
        groups = grouped(
            read(self.codes.name),
            _scale(self, read),
            read(self.zeros.name) if self.zeros else None,
            read(self.index.name) if self.index else None,
            bits=self.bits,
            packing=self.packing,
            rows=rows,
        )
        return groups.weights(self.group, dtype)

    def together(self) -> int:
        return 32 // self.bits

    def of_floats(self, bits: int) -> Quantized:
        if self.packing != "packed" or self.zeros or self.index:
            return super().of_floats(bits)
        weight = Tensor(float_name(self.codes.name), self.shape())
        return _of_bits(RoundedGroups(weight, self.bits, self.group), bits)

    def shape(self) -> Shape:
        height, width = self.codes.shape
        many = 32 // self.bits
        return {
            "gptq": (width, height * many),
            "gptq_v2": (width, height * many),
            "awq": (width * many, height),
            "packed": (height, width * many),
        }.get(self.packing, (height, width))


@dataclass(frozen=True)
class DequantFloats(Scaled):
    """Small floats in `codes`, times the `scale` of their group of a row's columns and
    maybe a `factor` of the whole matrix, by which it may be `divided` instead."""

    bits: int
    #: Whether scales are exponents plus 127.
    powers: bool = False
    factor: Tensor | None = None
    divided: bool = False

    def dtypes(self) -> dict[str, str]:
        codes = "U8" if self.bits == 4 else "F8_E4M3"
        return {"codes": codes, "scale": "U8" if self.powers else "F8_E4M3"}

    def shape(self) -> Shape:
        rows = self.scale.shape[:-1]
        width = math.prod(self.codes.shape[len(rows) :])
        return (*rows, width * 8 // self.bits)

    def kept_columns(self, part: str, kept: torch.Tensor, of: slice) -> torch.Tensor:
        return _columns(part, kept, of, self.bits)

    def kept_shape(self, part: str) -> Shape:
        *rows, width = self.shape()
        sizes = {"codes": width * self.bits // 8, "scale": self.scale.shape[-1]}
        count = sizes.get(part, 1)
        return tuple(rows) if count == 1 else (*rows, count)

    def kept(self, part: str, read: Read, rows: slice) -> torch.Tensor:
        if part == "codes":
            codes = read(self.codes.name)[rows]
            if len(self.shape()) == 2:
                return _float_codes(codes, self.codes.name, self.bits)
            # Of a stack one matrix at a time: unpacked they take twice as much.
            each = [_float_codes(one, self.codes.name, self.bits) for one in codes]
            return torch.stack(each)
        if part == "factor":
            assert self.factor
            return (
                read(self.factor.name).float().reshape(1).expand(self.shape()[0])[rows]
            )
        scale = _scale(self, read)[rows].reshape(-1, *self.kept_shape(part)[1:])
        return scale.view(torch.uint8) if self.powers else scale

    def weights(self, read: Read, dtype: torch.dtype, rows: slice) -> torch.Tensor:
        codes, scale = read(self.codes.name), _scale(self, read)
        factor = read(self.factor.name).reshape(()) if self.factor else None
        return dequantize_floats(
            codes[rows], scale[rows], dtype, self.bits, factor, self.divided
        )


@dataclass(frozen=True)
class RoundedGroups(Quantized):
    """Floats `codes` [O, I], rounded as they are read: to integers of some `bits`, with
    a scale that `group` columns of a row share."""

    bits: int
    group: int

    alone = False

    def dtypes(self) -> dict[str, str]:
        return {}

    def of_floats(self, bits: int) -> Quantized:
        return _of_bits(self, bits)

    def kept_shape(self, part: str) -> Shape:
        height, width = self.shape()
        if part == "codes":
            return (height, width * self.bits // 8)
        count = width // self.group
        return (height,) if count == 1 else (height, count)

    def kept_columns(self, part: str, kept: torch.Tensor, of: slice) -> torch.Tensor:
        return _columns(part, kept, of, self.bits)

    def kept(self, part: str, read: Read, rows: slice) -> torch.Tensor:
        codes, scale = self._rounded(read, rows)
        if part == "codes":
            return pack_codes(codes, self.bits)
        return scale.reshape(-1, *self.kept_shape(part)[1:])

    def weights(self, read: Read, dtype: torch.dtype, rows: slice) -> torch.Tensor:
        codes, scale = self._rounded(read, rows)
        return Groups(codes, scale, None, None).weights(self.group, dtype)

    def _rounded(self, read: Read, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns codes and scales of some rows.

        Raises WeightsError where a weight is not finite.
        """
        try:
            return round_groups(read(self.codes.name)[rows], self.bits, self.group)
        except ValueError as error:
            raise WeightsError(f"{self.codes.name} {error}.", "values") from None


def _of_bits(made: RoundedGroups, bits: int) -> RoundedGroups:
    if made.bits != bits:
        raise ValueError(f"the build reads codes of {made.bits} bits, not {bits}")
    return made


def _float_codes(stored: torch.Tensor, name: str, bits: int) -> torch.Tensor:
    """Repacks the codes of rows of small floats, of the tensor of this name.

    Raises WeightsError where one is no number.
    """
    codes = float_codes(stored.flatten(1), bits)
    if bits == 8 and bool(((codes & 127) == 127).any()):
        raise WeightsError(
            f"{name} holds nan; get the checkpoint again, or another one.", "values"
        )
    return pack_codes(codes, bits)


def _scale(of: Scaled, read: Read) -> torch.Tensor:
    """Returns the scale as it is needed: dimensions of one may be published or not."""
    return read(of.scale.name).reshape(of.scale.shape)


def dequant_rows(codes: Tensor, scale: Tensor, *, bits: int) -> DequantRows:
    """Multiplies codes of 8 or 4 bits by the scale of their row."""
    return DequantRows(codes, scale, bits)


def dequant_blocks(
    codes: Tensor, scale: Tensor, *, block: tuple[int, int], sure: bool = False
) -> DequantBlocks:
    """Multiplies codes in float8 by the scale of their block."""
    return DequantBlocks(codes, scale, block, sure)


def dequant_groups(
    codes: Tensor,
    scale: Tensor,
    *,
    zeros: Tensor | None = None,
    index: Tensor | None = None,
    bits: int,
    group: int,
    packing: str,
) -> DequantGroups:
    """Dequantises codes of 8 or 4 bits, with a scale and a zero point for `group` of
    them."""
    return DequantGroups(codes, scale, bits, group, packing, zeros, index)


def codes_of(of: Quantized) -> Repacked:
    """Repacks the codes of weights, as int8 in the order that kernels read."""
    return Repacked(of, "codes")


def scale_of(of: Quantized) -> Repacked:
    """Takes their scale, for each row or each group of a row."""
    return Repacked(of, "scale")


def factor_of(of: Quantized) -> Repacked:
    """Takes the factor of a whole matrix, once for each of its rows."""
    return Repacked(of, "factor")


def zeros_of(of: Matrix) -> Repacked:
    """Takes the zero point, which is subtracted from the codes of each group of a
    row."""
    return Repacked(of, "zeros")


def rounded_groups(codes: Tensor, *, bits: int, group: int) -> RoundedGroups:
    """Rounds floats, as they are loaded, to integers with a scale for `group` of a
    row's columns."""
    return RoundedGroups(codes, bits, group)


def dequant_floats(
    codes: Tensor,
    scale: Tensor,
    *,
    factor: Tensor | None = None,
    bits: int,
    powers: bool = False,
    divided: bool = False,
) -> DequantFloats:
    """Multiplies floats of 4 or 8 bits by the scale that a group of them shares, and by
    a factor of all, or divides by it."""
    return DequantFloats(codes, scale, bits, powers, factor, divided)
