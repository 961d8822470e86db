"""Leaves of recipes: published tensors, and codes with what makes numbers of them."""

import math
from typing import Literal

from glmc.ir.node import Node

Shape = tuple[int, ...]


class Tensor(Node):
    """A tensor of the checkpoint, whole."""

    name: str
    """``{i}`` stands for the layer's index, ``{x}`` for that within a stack."""
    stored: Shape

    @property
    def shape(self) -> Shape:
        return self.stored


class Quantized(Node):
    """The base of leaves that stand for quantised weights.

    Their tensors are the fields that hold one: ``codes`` and, in most formats, a
    ``scale`` and more of them.
    """

    codes: Tensor

    def parts(self) -> dict[str, Tensor]:
        """Return the checkpoint tensors that it is made of, by field."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {k: v for k, v in values.items() if isinstance(v, Tensor)}

    def dtypes(self) -> dict[str, str]:
        """Return the stored dtypes, by safetensors' names; fields left out hold
        floats."""
        return {"codes": "I8"}

    def grain(self, columns: bool) -> int:
        """Return what rows, or columns, are cut into multiples of."""
        raise NotImplementedError


class DequantRows(Quantized):
    """``codes`` times the ``scale`` of their row: ChatGLM's weight-only format.

    ``codes`` are int8 ``[..., in]``, or with ``bits=4`` ``[..., in / 2]``: two to a
    byte, the even column in the high nibble. ``scale`` is ``[...]``.
    """

    scale: Tensor
    bits: Literal[4, 8]

    @property
    def shape(self) -> Shape:
        *rows, width = self.codes.stored
        return (*rows, width * 8 // self.bits)

    def grain(self, columns: bool) -> int:
        return 8 // self.bits if columns else 1


class DequantBlocks(Quantized):
    """``codes`` (float8 e4m3) times the ``scale`` (float) of their block.

    A block may be a row or the whole matrix. A checkpoint may hold ``codes`` as plain
    floats instead; it then has no ``scale``. Not so where they are ``sure`` to be
    codes.
    """

    scale: Tensor
    block: tuple[int, int]
    sure: bool = False

    @property
    def shape(self) -> Shape:
        return self.codes.stored

    def dtypes(self) -> dict[str, str]:
        return {"codes": "F8_E4M3"}

    def grain(self, columns: bool) -> int:
        size = self.block[columns]
        return 1 if size == self.shape[columns - 2] else size


Packing = Literal["gptq", "gptq_v2", "awq", "packed", "plain"]
"""Layouts of the codes of a weight ``[out, in]``, and of zero points, in int32 words:

``gptq``     ``[in / n, out]``, a word holds n columns of the weight; its zero points
             ``[groups, out / n]`` are stored less one
``gptq_v2``  the same with zero points as they are
``awq``      ``[in, out / n]``, a word holds rows 0, 2, 4, 6, 1, 3, 5, 7 of eight; zero
             points likewise
``packed``   ``[out, in / n]`` and zero points ``[out / n, groups]``, both with half
             their range added (compressed-tensors)
``plain``    no words: int8 ``[out, in]`` and ``[out, groups]``
"""


class DequantGroups(Quantized):
    """``(codes - zeros) * scale``, with one of each for ``group`` columns of a row.

    ``scale`` is ``[groups, out]`` in GPTQ's and AWQ's packing, else ``[out, groups]``.
    Without ``zeros`` codes are signed. ``index`` is the group of each column where they
    are not in order (GPTQ's ``desc_act``).
    """

    scale: Tensor
    zeros: Tensor | None = None
    index: Tensor | None = None
    bits: Literal[4, 8]
    group: int
    packing: Packing

    @property
    def shape(self) -> Shape:
        first, second = self.codes.stored
        many = 32 // self.bits
        match self.packing:
            case "gptq" | "gptq_v2":
                return (second, first * many)
            case "awq":
                return (second * many, first)
            case "packed":
                return (first, second * many)
            case "plain":
                return (first, second)

    def dtypes(self) -> dict[str, str]:
        word = "I8" if self.packing == "plain" else "I32"
        return {"codes": word, "zeros": word, "index": "I32"}

    def grain(self, columns: bool) -> int:
        many = 1 if self.packing == "plain" else 32 // self.bits
        if not columns:
            return many if self.packing == "awq" or self.zeros else 1
        word = 1 if self.packing == "awq" else many
        alone = self.index or self.group >= self.shape[1]
        return word if alone else math.lcm(word, self.group)


class DequantFloats(Quantized):
    """Small floats times the ``scale`` that neighbouring columns of a row share:
    NVFP4, and the MX formats of the Open Compute Project.

    ``codes`` of 4 bits are e2m1, two to a byte and the even column in the low nibble,
    those of 8 bits e4m3; what follows their rows are the columns, however they are cut.
    ``scale`` ``[..., groups]`` is e4m3, or with ``powers`` bytes: two to the power of
    them less 127. ``factor``, one number, multiplies all, or with ``divided`` divides.
    """

    scale: Tensor
    factor: Tensor | None = None
    bits: Literal[4, 8]
    powers: bool = False
    divided: bool = False

    @property
    def shape(self) -> Shape:
        rows = self.scale.stored[:-1]
        width = math.prod(self.codes.stored[len(rows) :])
        return (*rows, width * 8 // self.bits)

    def dtypes(self) -> dict[str, str]:
        codes = "U8" if self.bits == 4 else "F8_E4M3"
        return {"codes": codes, "scale": "U8" if self.powers else "F8_E4M3"}

    def grain(self, columns: bool) -> int:
        return self.shape[-1] // self.scale.stored[-1] if columns else 1


class RoundedGroups(Quantized):
    """Floats ``codes`` that are rounded when they are loaded: to integers, with a scale
    for ``group`` columns of a row, which are what compressed-tensors would store."""

    bits: Literal[4, 8]
    group: int

    @property
    def shape(self) -> Shape:
        return self.codes.stored

    def dtypes(self) -> dict[str, str]:
        return {}

    def grain(self, columns: bool) -> int:
        return self.group if columns and self.group < self.shape[1] else 1


Scaled = DequantRows | DequantBlocks | DequantGroups | DequantFloats
"""Codes with their scales, as they are stored."""


Dequant = Scaled | RoundedGroups
