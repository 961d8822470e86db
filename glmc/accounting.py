"""The account of a checkpoint: every tensor bound, waived, or reported.

Works on names and shapes from the headers; no weights are read.
"""

import re
from collections.abc import Iterable, Mapping
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
        found = _find(name, headers, model.optional_prefix)
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


def _find(
    name: str, headers: Mapping[str, TensorInfo], prefix: str | None
) -> str | None:
    if name in headers:
        return name
    short = name.removeprefix(prefix) if prefix else name
    return short if short in headers else None


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
    """Names that differ only in the indices of layer and expert, as one line each."""
    groups: dict[str, list[str]] = {}
    for name in names:
        pattern = re.sub(r"\.\d+\.", ".{i}.", name, count=1)
        pattern = re.sub(r"\.\d+\.", ".{x}.", pattern)
        groups.setdefault(pattern, []).append(name)
    return [
        group[0] if len(group) == 1 else f"{pattern}  ({_count(pattern, group)})"
        for pattern, group in groups.items()
    ]


def _count(pattern: str, group: list[str]) -> str:
    return f"{len(group)} {'tensors' if '{x}' in pattern else 'layers'}"
