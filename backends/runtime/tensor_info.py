"""The facts in a header about one tensor."""

import math
from dataclasses import dataclass

# Bits of an element, by the names safetensors uses.
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file; dtype and shape are None where only an index names it."""

    dtype: str | None
    """safetensors' name: `BF16`, `F32`, `I8`, `F8_E4M3`."""
    shape: tuple[int, ...] | None
    file: str
    """The file's name within the checkpoint folder."""
    offset: int | None = None
    """Its first byte in the file, where its bytes lie there as they are."""


def size_in_bytes(dtype: str, shape: tuple[int, ...]) -> float:
    """Returns the bytes of a contiguous tensor; not whole where elements do not fill
    the last."""
    return math.prod(shape) * BITS[dtype] / 8
