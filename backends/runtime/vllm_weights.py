"""Fill parameters with tensors in the order in which vLLM hands them over.

A parameter is filled, in its place, as soon as the last tensor that it is made of has
come, and what no other needs is let go: there is no second copy of a checkpoint. When
all have come, they are accounted for as `loading.load` does it.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from .accounting import Rules, spellings
from .binding import resolve
from .checkpoint import DTYPES
from .filling import fill
from .loading import check_parameters, tell, unexpected_of, unsound
from .recipes import Bind, Quantized, Recipe, leaves, names, renamed
from .shapes import shape_of
from .storage import float_name
from .tensor_info import TensorInfo

#: What errors call the checkpoint, of which only the tensors are known here.
WHERE = "the checkpoint that vLLM reads"


class Arriving:
    """The tensors that have come and are still needed; they are read as those of a
    `Checkpoint` are, by the names that they came under."""

    def __init__(self, table: Any):
        self.rules = Rules(table.OPTIONAL_PREFIX, getattr(table, "OLD_NAMES", ()))
        self.binds = [one for entry in table.WEIGHTS for one in entry.each()]
        self.headers: dict[str, TensorInfo] = {}
        self.held: dict[str, torch.Tensor] = {}
        self.spelt: dict[str, str] = {}
        self.readers: dict[str, list[Bind]] = {}
        for bind in self.binds:
            for name in {*names(bind.recipe)}:
                self.readers.setdefault(name, []).append(bind)
        self.left = Counter({name: len(of) for name, of in self.readers.items()})
        self.own = self._spelt_all(self.readers)
        plain = {
            float_name(leaf.codes.name)
            for bind in self.binds
            for leaf in leaves(bind.recipe)
            if isinstance(leaf, Quantized)
        }
        self.plain = set(self._spelt_all(plain))
        rows = [tuple(map(str, row)) for row in getattr(table, "EXPECTED", ())]
        self.looked_at = [row[0] for row in rows]
        self.looked_at += [row[2] for row in rows if row[1] == "same"]

    def _spelt_all(self, of: Iterable[str]) -> dict[str, str]:
        """Maps all names that a checkpoint may have for some tensors to theirs."""
        return {one: name for name in of for one in spellings(name, self.rules)}

    def read(self, name: str) -> torch.Tensor:
        """Returns a tensor that is held."""
        return self.held[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor that has come."""
        return self.headers[name].shape or ()

    def spend(self, read_bytes: int) -> None:
        """Does nothing: a tensor is let go when its last reader has it."""

    def take(self, name: str, tensor: torch.Tensor) -> list[Bind]:
        """Takes a tensor. Returns the parameters that are complete with it, made of
        what tensors are called in the checkpoint."""
        dtype = DTYPES.get(tensor.dtype, str(tensor.dtype))
        self.headers[name] = TensorInfo(dtype, tuple(tensor.shape), "")
        own = self.own.get(name)
        if own is not None or name in self.plain or self.is_looked_at(name):
            self.held[name] = tensor
        if own is None:
            return []
        self.spelt[own] = name
        return [
            replace(bind, recipe=renamed(bind.recipe, self.spelt.__getitem__))
            for bind in self.readers[own]
            if all(part in self.spelt for part in names(bind.recipe))
        ]

    def is_looked_at(self, name: str) -> bool:
        """Tells whether the values of a tensor are to be checked at the end."""
        full = (name, (self.rules.optional_prefix or "") + name)
        return any(fnmatchcase(text, one) for one in self.looked_at for text in full)

    def let_go(self, bind: Bind) -> None:
        """Forgets the tensors of a filled parameter that no other is made of."""
        for name in {*names(bind.recipe)}:
            self.left[self.own[name]] -= 1
            if not self.left[self.own[name]] and not self.is_looked_at(name):
                del self.held[name]


def load_arriving(
    model: nn.Module,
    table: Any,
    weights: Iterable[tuple[str, torch.Tensor]],
    own_part: Callable[[Recipe], Recipe],
) -> set[str]:
    """Fills the parameters of a model, in their places, with `weights`, in any order;
    returns their names. `table` is the binding table, a module `weights`; `own_part`
    makes of a recipe that of what this process has.

    Raises WeightsError where these are not the weights of this model.
    """
    arriving = Arriving(table)
    check_parameters(model, arriving.binds)
    filled: dict[str, list[str]] = {}

    def fill_own(bind: Bind) -> None:
        own = replace(bind, recipe=own_part(bind.recipe))
        filled[bind.path] = _filled(model, own, arriving)

    for name, tensor in weights:
        for bind in arriving.take(name, tensor):
            if bind.path not in filled and _fits(bind, arriving):
                fill_own(bind)
                arriving.let_go(bind)
    binds = resolve(
        table.WEIGHTS,
        arriving.headers,
        where=WHERE,
        optional_prefix=table.OPTIONAL_PREFIX,
        old_names=getattr(table, "OLD_NAMES", ()),
        waived=table.WAIVED,
    )
    for bind in binds:  # such as floats that came where codes may
        if bind.path not in filled:
            fill_own(bind)
    faults = [fault for found in filled.values() for fault in found]
    tell([*faults, *unexpected_of(table, arriving, binds)], WHERE, strict=True)
    return {*filled}


def _fits(bind: Bind, arriving: Arriving) -> bool:
    """Tells whether tensors make a parameter; if not, the account says why."""
    try:
        return shape_of(bind.recipe, arriving.shape) == bind.shape
    except ValueError:
        return False


def _filled(model: nn.Module, bind: Bind, arriving: Arriving) -> list[str]:
    """Fills a parameter; returns what is wrong with its values."""
    weight = model.get_parameter(bind.path).data
    fill(weight, bind.recipe, arriving)
    return unsound(weight, bind, arriving)
