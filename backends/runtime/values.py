"""Check that weights are numbers, and not too large for the dtype they are loaded
in."""

from collections.abc import Iterable, Iterator

import torch

from .checkpoint import NAMED_DTYPES

#: Elements of a tensor that are looked at where not all are.
FIRST = 1 << 18
#: Elements that are looked at in one go.
PIECE = 1 << 22


def elements(tensor: torch.Tensor, whole: bool) -> torch.Tensor:
    """Returns the elements of a tensor in a row: all of them, or the first."""
    flat = tensor.flatten() if whole or tensor.dim() < 2 else _rows(tensor).flatten()
    return flat if whole else flat[:FIRST]


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """Returns as many rows of a matrix as hold the first elements."""
    width = max(1, tensor[0].numel()) if len(tensor) else 1
    return tensor[: -(-FIRST // width)]


def is_narrowed(stored: Iterable[str], dtype: torch.dtype) -> bool:
    """Tells whether weights of these dtypes, by their safetensors names, may be too
    large for `dtype`."""
    most = torch.finfo(dtype).max if dtype.is_floating_point else float("inf")
    kinds = (NAMED_DTYPES[name] for name in stored if name in NAMED_DTYPES)
    floats = [kind for kind in kinds if kind.is_floating_point]
    return any(torch.finfo(kind).max > most for kind in floats)


def are_numbers(weight: torch.Tensor, whole: bool) -> bool:
    """Tells whether the elements of a tensor are finite: all, or the first and a
    few."""
    if weight.dtype == torch.uint8:  # exponents
        return bool((weight != 255).all())
    if weight.dtype == torch.float8_e4m3fn:
        return bool(((weight.view(torch.uint8) & 127) != 127).all())
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        return True
    flat = weight.flatten() if weight.is_contiguous() else elements(weight, whole)
    if not whole:
        return bool(flat[:FIRST].isfinite().all())
    return all(bool(piece.isfinite().all()) for piece in _pieces(flat))


def fits(weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Tells whether no element of a tensor becomes infinite as `dtype`."""
    pieces = _pieces(weight.flatten())
    return all(bool(piece.to(dtype).isfinite().all()) for piece in pieces)


def _pieces(flat: torch.Tensor) -> Iterator[torch.Tensor]:
    return (flat[at : at + PIECE] for at in range(0, len(flat), PIECE))
