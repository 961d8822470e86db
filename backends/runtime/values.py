"""Check the values that a checkpoint must have, beside names and shapes.

Some tensors are not read because they are always the same, or in order: that is looked
up. Weights that are no numbers are named, and those too large for the dtype they are
loaded in.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch

from .checkpoint import NAMED_DTYPES, Checkpoint

#: Elements of a tensor that are looked at where not all are.
FIRST = 1 << 18
#: Elements that are looked at in one go.
PIECE = 1 << 22


class Expected(NamedTuple):
    """Values that tensors are assumed to have. `kind` says what `value` is:

    - "all": every element has it;
    - "order": columns belong to groups of so many, one after the other;
    - "same": the name of a tensor that this one is equal to;
    - "below": every element is at least 0 and less than it.
    """

    pattern: str
    kind: str
    value: float | str
    otherwise: str
    """The consequence where they have other values, and what to do."""
    bound: bool = False
    """True where this is said of tensors that the model reads; else of the others."""


def unexpected(
    expected: Iterable[Sequence[object]],
    checkpoint: Checkpoint,
    bound: Collection[str],
    prefix: str | None = None,
    whole: bool = False,
) -> Iterator[str]:
    """Yields a sentence for each tensor that has not the assumed values; all of its
    elements are read with `whole`, else the first."""
    for row in expected:
        one = Expected(*row)  # type: ignore[arg-type]
        for name in sorted(checkpoint.headers):
            full = (name, (prefix or "") + name)
            meant = any(fnmatchcase(text, one.pattern) for text in full)
            if not meant or (name in bound) != one.bound:
                continue
            if not _is_so(name, one, checkpoint, prefix or "", whole):
                yield f"{name} {one.otherwise}"
                break  # the others of the kind say the same


def _is_so(
    name: str, one: Expected, checkpoint: Checkpoint, prefix: str, whole: bool
) -> bool:
    found = _elements(checkpoint.read(name), whole or one.kind == "below")
    match one.kind:
        case "below":
            least, most = found.aminmax()
            return int(least) >= 0 and int(most) < int(one.value)
        case "all":
            return bool((found == torch.tensor(one.value, dtype=found.dtype)).all())
        case "order":
            places = torch.arange(len(found)) // int(one.value)
            return bool((found == places).all())
    twin = str(one.value)
    twin = twin if twin in checkpoint.headers else twin.removeprefix(prefix)
    if checkpoint.headers.get(twin) is None:
        return True
    if checkpoint.shape(twin) != checkpoint.shape(name):
        return False
    other = _elements(checkpoint.read(twin), whole)
    return torch.equal(found.float(), other.float())


def _elements(tensor: torch.Tensor, whole: bool) -> torch.Tensor:
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
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        return True
    flat = weight.flatten() if weight.is_contiguous() else _elements(weight, whole)
    if not whole:
        return bool(flat[:FIRST].isfinite().all())
    return all(bool(piece.isfinite().all()) for piece in _pieces(flat))


def fits(weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Tells whether no element of a tensor becomes infinite as `dtype`."""
    pieces = _pieces(weight.flatten())
    return all(bool(piece.to(dtype).isfinite().all()) for piece in pieces)


def _pieces(flat: torch.Tensor) -> Iterator[torch.Tensor]:
    return (flat[at : at + PIECE] for at in range(0, len(flat), PIECE))
