"""Tell the system which bytes of files will be read, so that it reads no others.

A mapped file is read ahead around each page that is touched, by megabytes; what a rank
has of a matrix lies in many places, so without a word of it all of the file is read.
Pages that are asked for here are there, or on their way, when they are touched, and
nothing is read around them.
"""

import math
import os
from collections.abc import Iterator, Sequence
from itertools import product

from .checkpoint import Checkpoint
from .dealt import Padded
from .recipes import Cat, Recipe, Slice, Stack, Tensor
from .tensor_info import BITS

#: Bytes between two runs below which both are asked for at once: no page lies between.
PAGE = 4096
#: Bytes of one request: a system may cut longer ones without a word.
REQUEST = 128 << 10

Bounds = list[tuple[int, int]]
"""Of each dimension the first index and the one behind the last."""


def want(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Asks for the bytes that a recipe takes of files, where these are safetensors and
    the recipe says it by parts of whole tensors; what else there is, is read as it
    comes."""
    match recipe:
        case Cat(parts) | Stack(parts):
            for part in parts:
                want(part, checkpoint)
        case Padded(of):
            want(of, checkpoint)
        case str() | Tensor() | Slice():
            found = window(recipe, checkpoint)
            if found is not None and hasattr(os, "posix_fadvise"):
                _ask(*found, checkpoint)


def window(recipe: Recipe, checkpoint: Checkpoint) -> tuple[str, Bounds] | None:
    """Returns the tensor that a recipe takes a part of, and the bounds of that; None
    where it is made in another way."""
    match recipe:
        case str(name) | Tensor(name, _):
            return name, [(0, size) for size in checkpoint.shape(name)]
        case Slice(of, dim, start, stop):
            found = window(of, checkpoint)
            if found is not None:
                begin = found[1][dim][0]
                found[1][dim] = (begin + start, begin + stop)
            return found
    return None


def runs(shape: Sequence[int], bounds: Bounds, bits: int) -> Iterator[tuple[int, int]]:
    """Yields the runs of bytes (begin, end) that a part takes of a tensor's, in their
    order; those with less than a page between them are one."""
    whole = [bound == (0, size) for bound, size in zip(bounds, shape, strict=True)]
    cut = max((at for at, all_of in enumerate(whole) if not all_of), default=0)
    inner = math.prod(shape[cut + 1 :]) * bits
    begin, end = bounds[cut] if shape else (0, 1)
    before: tuple[int, int] | None = None
    for at in product(*(range(*bound) for bound in bounds[:cut])):
        row = 0
        for index, size in zip(at, shape, strict=False):
            row = row * size + index
        row *= shape[cut] if shape else 1
        run = (row + begin) * inner // 8, -(-(row + end) * inner // 8)
        if before is not None and run[0] - before[1] < PAGE:
            run = before[0], run[1]
        elif before is not None:
            yield before
        before = run
    if before is not None:
        yield before


def _ask(name: str, bounds: Bounds, checkpoint: Checkpoint) -> None:
    info = checkpoint.headers[name]
    if info.offset is None or info.dtype is None or info.shape is None:
        return
    # Whatever part of it is taken, a tensor that is made of a mapping has its first
    # byte looked at.
    first = [(0, 1)] if info.shape else []
    opened = os.open(checkpoint.file_of(name), os.O_RDONLY)
    try:
        for begin, end in (*first, *runs(info.shape, bounds, BITS[info.dtype])):
            for at in range(begin, end, REQUEST):
                size = min(REQUEST, end - at)
                os.posix_fadvise(opened, info.offset + at, size, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(opened)
