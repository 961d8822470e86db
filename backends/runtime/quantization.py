"""The arithmetic of quantised weights: codes and scales to the weights they stand for.

Rows: int8 codes, one scale per row, as ChatGLM's `quantization_bit`; with 4 bits two
codes lie in a byte, the even column in the high nibble, each in two's complement.
Blocks: float8 (e4m3) codes, one float32 scale per block of rows and columns.
Groups: int4 or int8 codes, one scale and maybe a zero point per group of a row's
columns, as GPTQ, AWQ and compressed-tensors publish them.
Floats: e2m1 or e4m3 codes, one scale (e4m3, or an exponent) for a group of a row's
columns and maybe one for the whole matrix, as NVFP4, MXFP4 and MXFP8.
"""

import math
from dataclasses import dataclass

import torch


def unpack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpacks int8 codes [..., I] from stored [..., I], or [..., I / 2] where `bits` is
    4."""
    if bits == 8:
        return codes
    # Shifts of int8 are arithmetic: they carry the sign of the nibble along.
    return torch.stack([codes >> 4, (codes << 4) >> 4], dim=-1).flatten(-2)


def dequantize_rows(
    codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, bits: int
) -> torch.Tensor:
    """Computes weights [..., I] of `dtype`: each code times the `scale` [...] of its
    row.

    Both are taken to `dtype` first and the product is rounded to it once, as the
    published code does; every code is exact in every floating dtype.
    """
    return unpack(codes, bits).to(dtype) * scale.to(dtype)[..., None]


def dequantize_blocks(
    codes: torch.Tensor,
    scale: torch.Tensor,
    dtype: torch.dtype,
    block: tuple[int, int],
) -> torch.Tensor:
    """Computes weights [..., O, I] of `dtype`: each code times the `scale` of its
    block.

    `scale` is [..., ceil(O / block[0]), ceil(I / block[1])]. The product is made in
    float32 and rounded to `dtype` once.
    """
    height, width = codes.shape[-2:]
    spread = scale.float().repeat_interleave(block[0], -2)[..., :height, :]
    spread = spread.repeat_interleave(block[1], -1)[..., :width]
    return (codes.float() * spread).to(dtype)


@dataclass(frozen=True)
class Groups:
    """Rows of codes with the scale and zero point of each group, whatever they were
    packed in.

    `codes` and `zeros` have half their range taken off, so that they fit an int8.
    """

    #: int8 [O, I]
    codes: torch.Tensor
    #: float [O, G]
    scale: torch.Tensor
    #: int8 [O, G], or None where codes are signed.
    zeros: torch.Tensor | None
    #: int [I], the group of each column, or None where groups are neighbours.
    index: torch.Tensor | None

    def weights(self, group: int, dtype: torch.dtype) -> torch.Tensor:
        """Computes (codes - zeros) * scale [O, I], in float32, rounded to `dtype`
        once."""
        values = self.codes.float()
        if self.zeros is not None:
            values -= self._spread(self.zeros, group).float()
        return values.mul_(self._spread(self.scale, group).float()).to(dtype)

    def _spread(self, shared: torch.Tensor, group: int) -> torch.Tensor:
        """Repeats the numbers of groups, once for each column."""
        if self.index is not None:
            return shared[:, self.index.long()]
        return shared.repeat_interleave(group, -1)[:, : self.codes.shape[1]]


def grouped(
    codes: torch.Tensor,
    scale: torch.Tensor,
    zeros: torch.Tensor | None = None,
    index: torch.Tensor | None = None,
    *,
    bits: int,
    packing: str,
    rows: slice = slice(None),
) -> Groups:
    """Unpacks the `rows` of a weight [O, I] as they are stored; see `code_rows`."""
    return Groups(
        code_rows(codes, bits, packing, rows),
        scale_rows(scale, packing, rows),
        None if zeros is None else zero_rows(zeros, bits, packing, rows),
        index,
    )


def code_rows(
    codes: torch.Tensor, bits: int, packing: str, rows: slice
) -> torch.Tensor:
    """Unpacks int8 codes [O, I] of some `rows`, which start and stop at whole words.

    `packing` says how n = 32 / bits codes lie in words of int32, least bits first:
    "gptq" and "gptq_v2" [I / n, O]; "awq" [I, O / n], with rows 0, 2, 4, 6, 1, 3, 5, 7
    of eight in a word; "packed" [O, I / n]. These have half their range taken off.
    "plain" is int8 [O, I], and "rows" what `unpack` takes.
    """
    if packing in ("plain", "rows"):
        return codes[rows] if packing == "plain" else unpack(codes[rows], bits)
    if packing == "packed":
        found = words_to_codes(codes[rows], bits)
    elif packing == "awq":
        found = in_awq_order(words_to_codes(codes[:, _words(rows, bits)], bits)).T
    else:
        found = words_to_codes(codes[:, rows].T, bits)
    return (found - (1 << bits - 1)).view(torch.int8)


def scale_rows(scale: torch.Tensor, packing: str, rows: slice) -> torch.Tensor:
    """Returns the scale [O, G] of some `rows`, or [O] where it is for whole rows."""
    return scale[:, rows].T if packing.startswith(("gptq", "awq")) else scale[rows]


def zero_rows(
    zeros: torch.Tensor, bits: int, packing: str, rows: slice
) -> torch.Tensor:
    """Unpacks int8 zero points [O, G] of some `rows`, with half the codes' range taken
    off.

    "gptq", "gptq_v2" and "awq" store [G, O / n], the first of them one less than they
    are; "packed" [O / n, G], and "plain" int8 [O, G].
    """
    if packing == "plain":
        return zeros[rows]
    words = _words(rows, bits)
    found = words_to_codes(
        zeros[words].T if packing == "packed" else zeros[:, words], bits
    )
    if packing == "awq":
        found = in_awq_order(found)
    if packing == "gptq":
        # Sums of bytes wrap around, and so did the subtraction when it was written.
        found = found + 1 & (1 << bits) - 1
    return (found - (1 << bits - 1)).view(torch.int8).T


def _words(rows: slice, bits: int) -> slice:
    """Returns the words that hold some rows, n = 32 / bits of them in each."""
    many = 32 // bits
    start, stop = rows.start, rows.stop
    return slice(start and start // many, stop and -(-stop // many))


def words_to_codes(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpacks uint8 codes [..., n * I] from int32 words [..., I], the least bits
    first."""
    # Flat, because a dimension of one may have any stride.
    octets = words.contiguous().flatten().view(torch.uint8)
    octets = octets.reshape(*words.shape[:-1], -1)
    if bits == 8:
        return octets
    return torch.stack([octets & 15, octets >> 4], dim=-1).flatten(-2)


def in_awq_order(codes: torch.Tensor) -> torch.Tensor:
    """Reorders codes [..., I] from AWQ's words to the order of the matrix."""
    eights = codes.reshape(*codes.shape[:-1], -1, 8)
    return eights[..., [0, 4, 1, 5, 2, 6, 3, 7]].flatten(-2)


#: What the codes of fp4 (e2m1) stand for: sign, two bits of exponent, one of mantissa.
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def dequantize_floats(
    codes: torch.Tensor,
    scale: torch.Tensor,
    dtype: torch.dtype,
    bits: int,
    factor: torch.Tensor | None = None,
    divided: bool = False,
) -> torch.Tensor:
    """Computes weights [..., O, I] of `dtype`: each code times the scale of its group.

    Of 4 bits `codes` are bytes, the even column in the low nibble, and what they stand
    for is in `FP4`; of 8 bits they are float8. `scale` [..., O, G] is floats, or bytes:
    exponents plus 127. It is multiplied by `factor`, or `divided` by it, in float32,
    then by the code, and that is rounded to `dtype` once.
    """
    if scale.dim() > 2:  # one matrix of a stack at a time: float32 is wide
        each = zip(codes, scale, strict=True)
        return torch.stack(
            [dequantize_floats(*one, dtype, bits, factor, divided) for one in each]
        )
    whole = float_codes(codes.reshape(len(codes), -1), bits)
    return scaled_floats(whole, scale, dtype, bits, factor, divided)


def float_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns the bits of float codes as int8 [..., I], of 4 bits from two to a
    byte."""
    if bits == 8:
        return codes.view(torch.int8)
    octets = codes.view(torch.uint8)
    return torch.stack([octets & 15, octets >> 4], dim=-1).flatten(-2).view(torch.int8)


def scaled_floats(
    codes: torch.Tensor,
    scale: torch.Tensor,
    dtype: torch.dtype,
    bits: int,
    factor: torch.Tensor | None = None,
    divided: bool = False,
) -> torch.Tensor:
    """Computes weights [O, I] of `dtype` from the bits of float codes, int8 [O, I]; see
    `dequantize_floats`. `factor` is one number, or one of each row [O, 1]."""
    if bits == 8:
        values = codes.view(torch.float8_e4m3fn).float()
    else:
        table = torch.tensor([*FP4, *(-one for one in FP4)], device=codes.device)
        values = table[(codes & 15).int()]
    gain = group_gains(scale, factor, divided)[..., None]
    return (values.reshape(*gain.shape[:-1], -1) * gain).to(dtype).flatten(-2)


def group_gains(
    scale: torch.Tensor, factor: torch.Tensor | None = None, divided: bool = False
) -> torch.Tensor:
    """Returns in float32 what groups of float codes are multiplied by."""
    if scale.dtype == torch.uint8:
        scale = scale.view(torch.float8_e8m0fnu)
    if factor is None:
        return scale.float()
    gain, of_all = scale.float(), factor.float()
    return gain / of_all if divided else gain * of_all


def round_groups(
    weight: torch.Tensor, bits: int, group: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounds weights [O, I] to int8 codes [O, I] and scales [O, I / group].

    `scale = max |group| / (2^bits - 1) * 2`, in the dtype of the weights, and with it
    `code = round(weight / scale)` from -2^(bits-1) on, as compressed-tensors rounds.
    Raises ValueError, to follow a name, where a weight is not finite or a scale is too
    large for the dtype.
    """
    least = -(1 << bits - 1)
    parts = weight.float().reshape(len(weight), -1, group)
    scale = (parts.abs().amax(-1) / (-least - 0.5)).to(weight.dtype)
    step = scale.float()[..., None]
    if not step.isfinite().all():
        raise ValueError(
            "holds weights that are not finite, or too large for a scale in"
            f" {str(weight.dtype).removeprefix('torch.')}"
        )
    # A group of zeros has a step of zero.
    codes = (parts / step).round().nan_to_num(0.0).clamp(least, -least - 1)
    return codes.to(torch.int8).reshape(weight.shape), scale


def block_scales(scale: torch.Tensor, height: int, rows: int) -> torch.Tensor:
    """Returns in float32 the scales [height, G] of each row, where blocks of so many
    rows share them."""
    return scale.float().repeat_interleave(rows, 0)[:height]


def run_of(width: int, bits: int) -> int:
    """Returns the number of neighbouring columns in the same bits of neighbouring
    words; see `pack_codes`."""
    return math.gcd(width * bits // 32, 16)


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs codes [O, I] as the kernels read them: int8 [O, I * bits / 8].

    Seen as words of int32, n = 32 / bits codes each, word j of every `run` words holds
    the columns j, run + j, 2 run + j, ... of the run * n that they stand for, least
    bits first: one plane of bits of neighbouring words is neighbouring columns.
    """
    run = run_of(codes.shape[1], bits)
    planes = codes.reshape(len(codes), -1, 32 // bits, run).transpose(-1, -2)
    if bits == 4:
        low, high = planes[..., ::2] & 15, planes[..., 1::2] << 4
        planes = low | high
    return planes.reshape(len(codes), -1)


def unpack_codes(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpacks int8 codes [O, I] that `pack_codes` packed."""
    if bits == 4:
        # Shifts of int8 are arithmetic: they carry the sign of the nibble along.
        packed = torch.stack([packed << 4 >> 4, packed >> 4], dim=-1).flatten(-2)
    run = run_of(packed.shape[-1], bits)
    planes = packed.reshape(*packed.shape[:-1], -1, run, 32 // bits)
    return planes.transpose(-1, -2).flatten(-3)


def dequantize(
    packed: torch.Tensor,
    scale: torch.Tensor,
    dtype: torch.dtype,
    bits: int,
    zeros: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
    floats: str | None = None,
    divided: bool = False,
) -> torch.Tensor:
    """Computes weights [O, I] of `dtype` from codes as `pack_codes` makes them.

    `scale` is [O], or with `zeros` in int8 [O, G]; each weight is rounded once. Where
    codes are `floats` it is as in `dequantize_floats`, and `factor` is [O].
    """
    codes = unpack_codes(packed, bits)
    if floats is not None:
        of_rows = None if factor is None else factor[:, None]
        gains = scale.reshape(len(codes), -1)
        return scaled_floats(codes, gains, dtype, bits, of_rows, divided)
    if scale.dim() == 1:
        return codes.to(dtype) * scale.to(dtype)[..., None]
    group = codes.shape[1] // scale.shape[1]
    return Groups(codes, scale, zeros, None).weights(group, dtype)
