"""Follow recipes backwards: from the parameters of a model to published tensors.

What no parameter has changed is the source's own tensor, as it lies there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .checkpoint import Checkpoint
from .evaluation import evaluate
from .faults import WeightsError
from .recipes import (
    Bind,
    Cat,
    Permute,
    Quantized,
    Recipe,
    Slice,
    Stack,
    Tensor,
    View,
    leaves,
    names,
)
from .shapes import shape_of


class Inverse:
    """Published tensors of a model's parameters, `values` by their paths."""

    def __init__(
        self,
        bound: Iterable[Bind],
        values: Mapping[str, torch.Tensor],
        source: Checkpoint,
        dtype: torch.dtype | None,
    ):
        self.values, self.source, self.dtype = values, source, dtype
        self.readers: dict[str, list[Bind]] = {}
        for bind in bound:
            for name in dict.fromkeys(names(bind.recipe)):
                self.readers.setdefault(name, []).append(bind)
        self._changed: dict[str, bool] = {}

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a published tensor with the values of now, on the CPU."""
        published = self.source.read(name)
        binds = self.readers.get(name)
        if binds is None:
            return self._copied(name, published).clone()
        changed = [bind for bind in binds if self.changed(bind)]
        if not changed:
            return published.clone()
        for bind in changed:
            _refuse_codes(bind, name)
        wide = published.dtype
        for bind in changed:
            wide = torch.promote_types(wide, self.values[bind.path].dtype)
        out = published.to(self.dtype or wide, copy=True)
        place = {name: (out, torch.zeros(out.shape, dtype=torch.bool))}
        for bind in binds:
            self._put(bind, bind.recipe, self._now(bind), None, place)
        return out.contiguous()

    def _copied(self, name: str, published: torch.Tensor) -> torch.Tensor:
        """Returns a tensor that no parameter is made of: as it was, or what became of
        the one that it is a copy of, as heads are of embeddings that they are tied to.
        """
        for other, binds in self.readers.items():
            alike = self.source.shape(other) == tuple(published.shape)
            if not (alike and any(map(self.changed, binds))):
                continue
            before = self.source.read(other)
            same = before.dtype == published.dtype and torch.equal(before, published)
            # Norms begin as ones: that two are all ones does not make them one.
            if same and bool((before != before.flatten()[0]).any()):
                return self.tensor(other)
        return published

    def _now(self, bind: Bind) -> torch.Tensor:
        return self.values[bind.path].detach().to("cpu")

    def changed(self, bind: Bind) -> bool:
        """Tells whether a parameter is another than the source makes."""
        if bind.path not in self._changed:
            now = self._now(bind)
            made = evaluate(bind.recipe, self.source.read, now.dtype)
            same = torch.equal(_bits(made.to(now.dtype).reshape(now.shape)), _bits(now))
            self._changed[bind.path] = not same
        return self._changed[bind.path]

    def _put(
        self,
        bind: Bind,
        recipe: Recipe,
        value: torch.Tensor,
        which: torch.Tensor | None,
        place: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """Puts the elements of `value` that `which` marks (None: all) to where the
        recipe takes them from; a tensor without a `place` is passed over."""
        match recipe:
            case str(name) | Tensor(name, _):
                if name in place:
                    _fill(name, value, which, *place[name], bind.path)
            case Cat(parts, dim):
                sizes = [self._shape(part)[dim] for part in parts]
                cut = _cut(value, which, sizes, dim)
                for part, (one, marks) in zip(parts, cut, strict=True):
                    self._put(bind, part, one, marks, place)
            case Stack(parts):
                for at, part in enumerate(parts):
                    marks = None if which is None else which[at]
                    self._put(bind, part, value[at], marks, place)
            case Permute(of, dims):
                back = [dims.index(dim) for dim in range(len(dims))]
                marks = None if which is None else which.permute(back)
                self._put(bind, of, value.permute(back), marks, place)
            case View(of, _):
                shape = self._shape(of)
                marks = None if which is None else which.reshape(shape)
                self._put(bind, of, value.reshape(shape), marks, place)
            case Slice(of, dim, start, stop):
                shape = self._shape(of)
                whole = value.new_zeros(shape)
                marks = torch.zeros(shape, dtype=torch.bool)
                whole.narrow(dim, start, stop - start).copy_(value)
                inner = marks.narrow(dim, start, stop - start)
                inner.copy_(torch.ones_like(inner) if which is None else which)
                self._put(bind, of, whole, marks, place)

    def _shape(self, recipe: Recipe) -> tuple[int, ...]:
        return shape_of(recipe, self.source.shape)


def _refuse_codes(bind: Bind, name: str) -> None:
    """Refuses a parameter that a tensor gives codes to, or what belongs to them."""
    for leaf in leaves(bind.recipe):
        if isinstance(leaf, Quantized) and name in names(leaf):
            raise WeightsError(
                f"{bind.path} has changed, and it is made of codes ({name}), which "
                "other weights cannot be turned back into: quantise the weights anew, "
                "or train adapters and save those."
            )


def _fill(
    name: str,
    value: torch.Tensor,
    which: torch.Tensor | None,
    out: torch.Tensor,
    known: torch.Tensor,
    path: str,
) -> None:
    """Puts elements into a tensor. Raises WeightsError where another parameter has put
    others there."""
    new = value.reshape(out.shape).to(out.dtype)
    marks = torch.ones_like(known) if which is None else which.reshape(out.shape)
    twice = marks & known
    if bool((_bits(new)[twice] != _bits(out)[twice]).any()):
        raise WeightsError(
            f"{name} is one tensor of the checkpoint and several parameters of the "
            f"model, of which {path} has other values than the one before: they were "
            "trained apart. Train one of them, or untie them in the config."
        )
    out.copy_(torch.where(marks, new, out))
    known |= marks


def _cut(
    value: torch.Tensor, which: torch.Tensor | None, sizes: Sequence[int], dim: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    parts = torch.split(value, [*sizes], dim)
    marks: Iterable[Any] = [None] * len(parts)
    return zip(
        parts,
        marks if which is None else torch.split(which, [*sizes], dim),
        strict=True,
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a tensor as integers, of which equal ones are the same bits."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(kinds[tensor.dtype.itemsize])
