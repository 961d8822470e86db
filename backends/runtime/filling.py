"""Write what recipes describe into weights, piece by piece."""

from collections.abc import Iterator
from types import EllipsisType

import torch

from .checkpoint import Tensors
from .evaluation import evaluate
from .recipes import Cat, Quantized, Recipe, Repacked, Slice, Stack, Tensor
from .shapes import shape_of

#: Large tensors are copied in pieces of this many bytes.
PIECE = 16 << 20
#: The same of codes, which take eight times as much while they are taken apart.
CODES = 1 << 19


def fill(out: torch.Tensor, recipe: Recipe, checkpoint: Tensors) -> None:
    """Writes what `recipe` describes into `out`, without a second copy of it."""
    match recipe:
        case Cat(parts, dim):
            begin = 0
            for part in parts:
                shape = shape_of(part, checkpoint.shape)
                fill(out.narrow(dim, begin, shape[dim]), part, checkpoint)
                begin += shape[dim]
        case Stack(parts):
            for one, part in zip(out, parts, strict=True):
                fill(one, part, checkpoint)
        case str(name) | Tensor(name, _):
            for rows in pieces(out):
                source = checkpoint.read(name)[rows]
                out[rows].copy_(source)
                size = source.nbytes
                del source
                checkpoint.spend(size)
        case Slice(str() | Tensor()):
            for rows in pieces(out):
                source = evaluate(recipe, checkpoint.read)[rows]
                out[rows].copy_(source)
                size = source.nbytes
                del source
                checkpoint.spend(size)
        case Quantized() if out.dim() == 2:
            for rows in pieces(out, recipe.together()):
                cut = slice(None) if rows is ... else rows
                out[rows].copy_(recipe.weights(checkpoint.read, out.dtype, cut))
                checkpoint.spend(out[rows].nbytes)
        case Repacked(of, part):
            for rows in pieces(out, of.together(), CODES):
                cut = slice(None) if rows is ... else rows
                out[rows].copy_(of.kept(part, checkpoint.read, cut))
                checkpoint.spend(out[rows].nbytes)
        case _:
            out.copy_(evaluate(recipe, checkpoint.read, out.dtype))
            checkpoint.spend(out.nbytes)


def pieces(
    out: torch.Tensor, multiple: int = 1, size: int | None = None
) -> Iterator[slice | EllipsisType]:
    """Yields indices that cut a tensor of more than `size` bytes (`PIECE`) into runs of
    rows, each but the last a `multiple`, or take a small one whole."""
    size = PIECE if size is None else size
    if out.nbytes <= size:
        yield ...
        return
    step = size * out.shape[0] // out.nbytes // multiple * multiple
    step = max(multiple, step)
    for begin in range(0, out.shape[0], step):
        yield slice(begin, begin + step)
