"""The account of a checkpoint: every tensor bound, waived, or reported.

Works on names and shapes from the headers; no weights are read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

from glmc.ir.graph import Program
from glmc.ir.model import Model
from glmc.ir.recipe import tensors

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class TensorInfo(Protocol):
    """What a header says of a tensor; shape and dtype are None in a bare index."""

    @property
    def shape(self) -> tuple[int, ...] | None: ...

    @property
    def dtype(self) -> str | None: ...


@dataclass
class Account:
    """Where every tensor of a checkpoint went."""

    bound: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    waived: dict[str, list[str]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    shapes_known: bool = True

    @property
    def ok(self) -> bool:
        """Whether the checkpoint is one of this model."""
        return not (self.missing or self.wrong or self.unused)


def account(
    model: Model, program: Program, headers: Mapping[str, TensorInfo]
) -> Account:
    """Hold a program's recipes against a checkpoint's headers."""
    result = Account()
    result.shapes_known = all(info.shape is not None for info in headers.values())
    for name, stored in wanted(program).items():
        found = next((one for one in _spellings(name, model) if one in headers), None)
        if found is None:
            result.missing.append(name)
            continue
        result.bound.add(found)
        wrong = _wrong(headers[found], stored)
        if wrong:
            result.wrong[found] = wrong
    for name in sorted(set(headers) - result.bound):
        reason = _waiver(name, model)
        if reason:
            result.waived.setdefault(reason, []).append(name)
        else:
            result.unused.append(name)
    return result


def wanted(program: Program) -> dict[str, tuple[int, ...]]:
    """Every tensor a program reads and the shape it must have."""
    found: dict[str, tuple[int, ...]] = {}
    for _, layer, param in program.bindings():
        for tensor in tensors(param.recipe):
            name = tensor.name
            if layer is not None:
                name = name.replace("{i}", str(layer))
            found[name] = tensor.stored
    return found


def _spellings(name: str, model: Model) -> Iterator[str]:
    """What a checkpoint may call a tensor, today's full name first."""
    endings = [(name, "")]
    for one in model.old_names:
        if name.endswith(one.new):
            endings.append((name.removesuffix(one.new), one.old))
    for stem, ending in endings:
        yield stem + ending
        yield stem.removeprefix(model.optional_prefix or "") + ending


def _wrong(info: TensorInfo, stored: tuple[int, ...]) -> str | None:
    if info.shape is not None and tuple(info.shape) != stored:
        return f"is {list(info.shape)}, the model needs {list(stored)}"
    if info.dtype is not None and info.dtype not in FLOATS:
        return f"is stored as {info.dtype}, the model needs a float tensor"
    return None


def _waiver(name: str, model: Model) -> str | None:
    prefix = model.optional_prefix or ""
    for waiver in model.waivers:
        if any(fnmatchcase(full, waiver.pattern) for full in (name, prefix + name)):
            return waiver.reason
    return None


def grouped(names: Iterable[str]) -> list[str]:
    """Names that differ only in a layer's index, as one line each."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\.\d+\.", ".{i}.", name, count=1), []).append(name)
    return [
        group[0] if len(group) == 1 else f"{pattern}  ({len(group)} layers)"
        for pattern, group in groups.items()
    ]
