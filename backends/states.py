"""Declare a program's states to the runtime: `KeysValues(2, 128, 128)`."""

from collections.abc import Sequence
from dataclasses import dataclass

from glmc.ir.state import KvType, RowType, StateType, TokenType

CLASSES: dict[type[StateType], str] = {
    KvType: "KeysValues",
    TokenType: "PerToken",
    RowType: "PerRow",
}
"""Kind of state to the class in ``runtime/state.py`` that keeps it."""
FROM, STATES = "From", "States"
"""The declarations of a state of another layer, and of all states of a layer."""


@dataclass(frozen=True)
class Declaration:
    """A call that declares a state to the runtime; ``dtype`` None: the model's.
    ``every`` is for how many tokens there is one."""

    name: str
    sizes: tuple[int, ...]
    dtype: str | None
    every: int = 1

    def text(self, dtypes: dict[str, str]) -> str:
        """Return the call as source, with the names that dtypes have there."""
        given = [*map(str, self.sizes)]
        given += [f"dtype={dtypes[self.dtype]}"] if self.dtype else []
        given += [f"every={self.every}"] if self.every > 1 else []
        return f"{self.name}({', '.join(given)})"


def declaration(kept: StateType) -> Declaration:
    """Return the declaration of a state that a layer has for itself."""
    every = kept.every if isinstance(kept, TokenType) else 1
    return Declaration(CLASSES[type(kept)], kept.dims, kept.dtype, every)


def owner(layers: Sequence[int], owners: Sequence[int]) -> int | dict[int, int]:
    """Return the owner whose state layers read: one number for all, or each layer's."""
    one = len(set(owners)) == 1
    return owners[0] if one else dict(zip(layers, owners, strict=True))
