"""Small tables for people, and the same figures as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

Row = dict[str, str | float]


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned columns under their keys."""
    cells = [list(rows[0]), *([_cell(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def show(rows: Sequence[Row], file: Path | None) -> None:
    """Print the table, and write the figures to `file` if one is given."""
    print(table(rows))
    if file is not None:
        file.write_text(json.dumps(list(rows), indent=1) + "\n")


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
