"""How a program's states are declared in the runtime: `KeysValues(2, 128, 128)`."""

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
"""What stands for a state of another layer, and for all that a layer keeps."""


@dataclass(frozen=True)
class Declaration:
    """A call that declares a state to the runtime; ``dtype`` None: the model's."""

    name: str
    sizes: tuple[int, ...]
    dtype: str | None

    def text(self, dtypes: dict[str, str]) -> str:
        """As source, with the names that dtypes have there."""
        given = [*map(str, self.sizes)]
        given += [f"dtype={dtypes[self.dtype]}"] if self.dtype else []
        return f"{self.name}({', '.join(given)})"


def declaration(kept: StateType) -> Declaration:
    """What a layer of its own is declared to keep."""
    return Declaration(CLASSES[type(kept)], kept.dims, kept.dtype)


def owner(layers: Sequence[int], owners: Sequence[int]) -> int | dict[int, int]:
    """Whose state layers read: one number for all, or each layer's."""
    one = len(set(owners)) == 1
    return owners[0] if one else dict(zip(layers, owners, strict=True))
