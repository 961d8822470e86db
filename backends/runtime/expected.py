"""Check that tensors hold what a build assumes of them.

Some tensors are not read because they are always the same, or in order: that is looked
up. Only builds whose table of weights has such rows take this along.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch

from .checkpoint import Tensors
from .values import elements


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
    checkpoint: Tensors,
    bound: Collection[str],
    prefix: str | None = None,
    whole: bool = False,
) -> Iterator[str]:
    """Yields a sentence for each tensor that has not the assumed values; all of its
    elements are read with `whole`, else the first."""
    for row in expected:
        # Rows of the emitted table, which come in the order of the fields.
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
    name: str, one: Expected, checkpoint: Tensors, prefix: str, whole: bool
) -> bool:
    found = elements(checkpoint.read(name), whole or one.kind == "below")
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
    other = elements(checkpoint.read(twin), whole)
    return torch.equal(found.float(), other.float())
