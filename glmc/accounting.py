"""The account of a checkpoint: every tensor bound, waived, or reported.

Works on names and shapes from the headers; no weights are read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol, TypeGuard

from glmc.backends.runtime.storage import FLOATS, Need, float_name, storage_fault
from glmc.ir.graph import Param, Program
from glmc.ir.model import Model
from glmc.ir.recipe import Dequant, DequantRows, Quantized, Tensor, is_kept, leaves


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
    fault: str | None = None
    """How files and config disagree about quantised weights, and what to do."""

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
    needs = needed(model, program, headers)
    for name, need in needs.items():
        if name not in headers:
            result.missing.append(name)
            continue
        result.bound.add(name)
        wrong = _wrong(headers[name], need)
        if wrong:
            result.wrong[name] = wrong
    result.fault = storage_fault(needs, headers)
    for name in sorted(set(headers) - result.bound):
        reason = _waiver(name, model)
        if reason:
            result.waived.setdefault(reason, []).append(name)
        else:
            result.unused.append(name)
    return result


def wanted(program: Program) -> dict[str, Need]:
    """Every tensor a program reads and what it must be."""
    return {
        name: need
        for layer, param, leaf in _leaves(program)
        for name, need in _needs(leaf, layer)
    }


def needed(
    model: Model, program: Program, headers: Mapping[str, TensorInfo]
) -> dict[str, Need]:
    """The same for one checkpoint, by the names that it uses.

    A weight that the config calls quantised may be stored as floats: lists of modules
    that were left out are not always right. It then needs no scale.
    """
    found: dict[str, Need] = {}
    for layer, param, leaf in _leaves(program):
        needs = [
            (_find(name, headers, model), need) for name, need in _needs(leaf, layer)
        ]
        if _is_loose(leaf, param) and needs[1][0] not in headers:
            plain = _find(_name(float_name(leaf.codes.name), layer), headers, model)
            if plain in headers and _is_float(headers[plain]):
                needs = [(plain, Need(leaf.shape, None))]
        found |= dict(needs)
    return found


def _is_loose(leaf: Tensor | Dequant, param: Param) -> TypeGuard[Dequant]:
    """Whether floats will do: ops read codes as they are, and all of ChatGLM's are."""
    made = isinstance(leaf, Quantized) and not is_kept(param.recipe)
    return made and not isinstance(leaf, DequantRows)


def _leaves(
    program: Program,
) -> Iterator[tuple[int | None, Param, Tensor | Dequant]]:
    for _, layer, param in program.bindings():
        for leaf in leaves(param.recipe):
            yield layer, param, leaf


def _needs(leaf: Tensor | Dequant, layer: int | None) -> list[tuple[str, Need]]:
    """What a tensor, or codes and then their scale and so on, must be."""
    if isinstance(leaf, Tensor):
        return [(_name(leaf.name, layer), Need(leaf.stored, None))]
    return [
        (
            _name(part.name, layer),
            Need(part.stored, leaf.dtypes().get(field), field == "scale"),
        )
        for field, part in leaf.parts().items()
    ]


def _name(name: str, layer: int | None) -> str:
    return name if layer is None else name.replace("{i}", str(layer))


def _is_float(info: TensorInfo) -> bool:
    return info.dtype is None or info.dtype in FLOATS


def _find(name: str, headers: Mapping[str, TensorInfo], model: Model) -> str:
    """What the checkpoint calls a tensor; the full name where it has none."""
    return next((one for one in _spellings(name, model) if one in headers), name)


def _spellings(name: str, model: Model) -> Iterator[str]:
    """What a checkpoint may call a tensor, today's full name first."""
    endings = [(name, "")]
    for one in model.old_names:
        if name.endswith(one.new):
            endings.append((name.removesuffix(one.new), one.old))
    for stem, ending in endings:
        yield stem + ending
        yield stem.removeprefix(model.optional_prefix or "") + ending


def _wrong(info: TensorInfo, need: Need) -> str | None:
    if info.shape is not None and not need.fits(tuple(info.shape)):
        return f"is {list(info.shape)}, the model needs {list(need.shape or ())}"
    if info.dtype is not None and not need.takes(info.dtype):
        kind = f"{need.codes} codes" if need.codes else "a float tensor"
        return f"is stored as {info.dtype}, the model needs {kind}"
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
