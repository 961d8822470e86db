"""Rows of ids as a model takes them: padded, masked, with positions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

#: One row of positions, or two for ChatGLM-6B; None where they cannot be said.
Positions = Callable[[list[int]], list[list[int]] | None]


class Batch(dict[str, Any]):
    """The arguments of a model's call: `model(**batch)`, `batch.to(device)`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"this batch has no {name}, only {', '.join(self)}"
            ) from None

    def to(self, device: torch.device | str) -> "Batch":
        """Moves its tensors to `device`; returns itself."""
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                self[name] = value.to(device)
        return self


def collate(
    rows: Sequence[list[int]],
    types: Sequence[list[int]] | None,
    positions: Positions,
    *,
    pad: int | None,
    side: str,
    length: int | None = None,
    multiple: int | None = None,
    extra: Mapping[str, list[list[int]]] | None = None,
) -> Batch:
    """Pads rows to equal length as lists, with `pad` on `side`.

    input_ids, attention_mask (1 for a token, 0 for padding) and, with `types`,
    token_type_ids are [B, T]; position_ids is [B, T], or [B, 2, T] where a position
    has two parts, 0 for padding, and left out where a row has none. T is `length`, or
    that of the longest row, rounded up to a `multiple`. `extra` rows are padded with 0.
    `pad` None leaves the rows as long as they are.
    """
    longest = max(map(len, rows), default=0) if length is None else length
    longest += -longest % (multiple or 1)
    gaps = [0 if pad is None else max(0, longest - len(row)) for row in rows]

    def filled(lines: Sequence[list[int]], value: int) -> list[list[int]]:
        return [
            [value] * gap + line if side == "left" else line + [value] * gap
            for line, gap in zip(lines, gaps, strict=True)
        ]

    batch = Batch(
        input_ids=filled(rows, pad or 0),
        attention_mask=filled([[1] * len(row) for row in rows], 0),
    )
    placed = [part for row in rows if (part := positions(row)) is not None]
    if len(placed) == len(rows):
        parts = [filled(part, 0) for part in zip(*placed, strict=True)]
        whole = [list(row) for row in zip(*parts, strict=True)]
        batch["position_ids"] = parts[0] if len(parts) == 1 else whole
    if types is not None:
        batch["token_type_ids"] = filled(types, 0)
    return Batch(batch | {n: filled(lines, 0) for n, lines in (extra or {}).items()})


def counted(row: list[int]) -> list[list[int]]:
    """Returns 0, 1, 2, … for a row."""
    return [list(range(len(row)))]
