"""The configs that glmc comes with: listed, and recognised in a checkpoint."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from glmc.backends.runtime.storage import Found
from glmc.compile.accounting import wanted
from glmc.frontends.build.source import builtin_source
from glmc.frontends.frontend import load_model
from glmc.frontends.spec.library import builtin_configs
from glmc.ir.graph import Program
from glmc.ir.lower import lower
from glmc.ir.model import Model
from glmc.look.inspecting import parameters


@dataclass(frozen=True)
class Entry:
    """A built-in config and the model it describes."""

    name: str
    model_type: str
    model: Model
    program: Program

    @property
    def facts(self) -> dict[str, str | int]:
        """The columns of ``glmc configs``."""
        return {
            "name": self.name,
            "type": self.model_type,
            "layers": self.model.layers,
            "hidden": self.model.hidden,
            "parameters": parameters(self.program),
        }


def entries() -> Iterator[Entry]:
    """Yield every built-in config."""
    for name in builtin_configs():
        loaded = load_model(builtin_source(name))
        model_type = str(loaded.config["model_type"])
        yield Entry(name, model_type, loaded.model, lower(loaded.model))


def table() -> str:
    """Lay out all entries for a terminal."""
    head = ("name", "type", "layers", "hidden", "parameters")
    rows = [head, *(tuple(map(_cell, entry.facts.values())) for entry in entries())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _cell(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def likeness(headers: Mapping[str, Found]) -> str | None:
    """Say whose tensors these are, as far as the built-in configs tell, in a sentence.

    First those of which every tensor is there in its shape; else those whose names all
    occur, layers aside, with the same number of embedding rows; else the names alone.
    """
    kinds = set(_kinds(headers))
    whole: dict[str, int] = {}
    rows: dict[str, int] = {}
    named: dict[str, int] = {}
    for entry in entries():
        need = wanted(entry.program)
        prefix = entry.model.optional_prefix or ""
        held = {name: _found(name, prefix, headers) for name in need}
        if all(i and i.shape in (None, need[n].shape) for n, i in held.items()):
            whole[entry.name] = len(need)
        if all(_has_kind(kind, prefix, kinds) for kind in _kinds(need)):
            named[entry.name] = len(set(_kinds(need)))
            embedding = held.get(entry.model.embed.weight.tensor)
            if embedding and (embedding.shape or (0,))[0] == entry.model.vocab:
                rows[entry.name] = named[entry.name]
    if whole:
        return f"Its tensors are those of {_best(whole)}."
    if rows:
        return f"Its names and its vocabulary are those of {_best(rows)}."
    return f"Its tensors are named as those of {_best(named)}." if named else None


def _found(name: str, prefix: str, headers: Mapping[str, Found]) -> Found | None:
    return headers.get(name) or headers.get(name.removeprefix(prefix))


def _has_kind(kind: str, prefix: str, kinds: set[str]) -> bool:
    return kind in kinds or kind.removeprefix(prefix) in kinds


def _kinds(names: Iterable[str]) -> Iterator[str]:
    """Yield names with every index replaced."""
    return (re.sub(r"(?<=\.)\d+(?=\.)", "{i}", name) for name in names)


def _best(found: Mapping[str, int]) -> str:
    """Name the entries that explain most."""
    most = max(found.values())
    names = [name for name, count in found.items() if count == most]
    return " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
