"""Write the weights of a model that several ranks hold back as they were published.

The first rank writes. What another one has changed it asks for, tensor by tensor, so
that no rank holds more than a published tensor beside its own part.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .checkpoint import Checkpoint
from .dealt import Padded, Zeros
from .evaluation import evaluate
from .faults import WeightsError
from .inverse import Inverse
from .modules import BaseModel
from .ranks import Ranks, RanksError, current
from .recipes import Bind, Recipe, names
from .saving import (
    dtype_named,
    finished,
    parameters,
    published,
    refuse_taken,
    source_of,
    within,
    write_files,
)

Changed = Mapping[str, torch.Tensor]
"""Parameters that differ from what was loaded, by their paths."""


def save(
    model: Any,
    folder: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
) -> None:
    """Writes the weights of a loaded model to a new folder, as `saving.save` does; all
    ranks call it, and have the folder that the weights were loaded from.

    Raises on every rank what the first one does: WeightsError where the folder exists,
    where codes have changed, or where ranks have trained what they share apart.
    """
    here, held = current(), within(model)
    with here.together():
        if here.number == 0:
            refuse_taken(folder)
        changed = _changed(held)
    every = here.told((list(held.bound), sorted(changed)))
    if here.number == 0:
        with _to_its_end(here), finished(Path(folder), held) as draft:
            source = source_of(held)
            wanted = dtype_named(dtype)
            gathering = Gathering(every, here, held, changed, source, wanted)
            write_files(held, gathering, draft)
            source.close()
        return
    _answer(here, held, changed)


def _changed(model: BaseModel) -> Changed:
    """Returns the parameters of this rank that are others than were loaded."""
    source, values = source_of(model), parameters(model)
    own = Inverse(model.bound, values, source, None)
    found = [bind.path for bind in model.bound if own.changed(bind)]
    source.close()
    return {path: values[path] for path in found}


def _answer(here: Ranks, model: BaseModel, changed: Changed) -> None:
    """Gives the first rank the parameters that it asks for, until it has done. Raises
    RanksError where it failed."""
    while True:
        name, failed = here.told(None)[0]
        if failed:
            raise RanksError(f"rank {here.number} ends because rank 0 failed: {failed}")
        if name is None:
            return
        here.at_first(_of(name, model, changed))


def _of(name: str, model: BaseModel, changed: Changed) -> dict[str, torch.Tensor]:
    """Returns the changed parameters that a published tensor is part of."""
    binds = [bind for bind in model.bound if bind.path in changed]
    here = [bind.path for bind in binds if name in names(bind.recipe)]
    return {path: published(changed[path].detach()).cpu() for path in here}


@contextmanager
def _to_its_end(here: Ranks) -> Iterator[None]:
    """Tells the others, who wait for questions, that there are no more, or why."""
    try:
        yield
    except RanksError:  # nobody answers any more
        raise
    except Exception as error:
        here.told((None, str(error)))
        raise
    here.told((None, None))


class Gathering(Inverse):
    """Published tensors of the parameters of all ranks, on the first of them.

    `every` has of each rank its bindings and the paths of what it has changed.
    """

    def __init__(
        self,
        every: Sequence[tuple[Sequence[Bind], Sequence[str]]],
        here: Ranks,
        model: BaseModel,
        changed: Changed,
        source: Checkpoint,
        dtype: torch.dtype | None,
    ):
        binds = [
            replace(bind, path=f"{bind.path} of rank {number}")
            for number, (bound, _) in enumerate(every)
            for bind in bound
        ]
        super().__init__(binds, {}, source, dtype)
        paths = [
            f"{path} of rank {number}"
            for number, (_, changed_there) in enumerate(every)
            for path in changed_there
        ]
        self._changed = {bind.path: False for bind in binds} | dict.fromkeys(
            paths, True
        )
        self.here, self.model, self.mine = here, model, changed

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a published tensor with the values that ranks have now."""
        if any(self.changed(bind) for bind in self.readers.get(name, ())):
            self.here.told((name, None))
            every = self.here.at_first(_of(name, self.model, self.mine))
            self.values = {
                f"{path} of rank {number}": value
                for number, values in enumerate(every or ())
                for path, value in values.items()
            }
        return super().tensor(name)

    def _now(self, bind: Bind) -> torch.Tensor:
        if bind.path in self.values:
            return self.values[bind.path]
        return evaluate(bind.recipe, self.source.read)

    def _put(
        self,
        bind: Bind,
        recipe: Recipe,
        value: torch.Tensor,
        which: torch.Tensor | None,
        place: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """Leaves out what ranks have beyond a tensor's end, and the zeros of those that
        have no part in a sum."""
        match recipe:
            case Padded(of, dim):
                size = self._shape(of)[dim]
                marks = None if which is None else which.narrow(dim, 0, size)
                self._put(bind, of, value.narrow(dim, 0, size), marks, place)
            case Zeros():
                if bool(value.any()):
                    raise WeightsError(
                        f"{bind.path} has changed, and is what the first rank adds:"
                        " change it there, and leave zeros on the others."
                    )
            case _:
                super()._put(bind, recipe, value, which, place)
