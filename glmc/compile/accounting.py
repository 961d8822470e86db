"""Account for a checkpoint's tensors, by the build's own rules.

Works on names and shapes from the headers; no weights are read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeGuard

from glmc.backends.runtime import accounting
from glmc.backends.runtime.accounting import Account, Entry, Rules
from glmc.backends.runtime.storage import INDICES, LOOSE, Found, Need, float_name
from glmc.ir.graph import Parameter, Program
from glmc.ir.leaves import Dequant, DequantRows, Quantized, RoundedGroups, Tensor
from glmc.ir.model import Model
from glmc.ir.recipe import is_repacked, leaves


def account(model: Model, program: Program, headers: Mapping[str, Found]) -> Account:
    """Hold a program's recipes against a checkpoint's headers."""
    return accounting.account(entries(program), headers, rules(model))


def needed(
    model: Model, program: Program, headers: Mapping[str, Found]
) -> dict[str, Need]:
    """Map every tensor a program reads, by the checkpoint's names, to its
    requirements."""
    return accounting.needed(entries(program), headers, rules(model))


def wanted(program: Program) -> dict[str, Need]:
    """Map every tensor a program reads, by the program's names, to its requirements."""
    return {name: need for entry in entries(program) for name, need in entry.needs}


def rules(model: Model) -> Rules:
    """Return the deviations that a checkpoint of a model is allowed."""
    return Rules(
        model.optional_prefix,
        tuple((one.old, one.new) for one in model.old_names),
        tuple((waiver.pattern, waiver.reason) for waiver in model.waivers),
    )


def entries(program: Program) -> Iterator[Entry]:
    """Yield the tensors of each of a program's weights."""
    for _, layer, param in program.bindings():
        for leaf in leaves(param.recipe):
            plain = None
            if _is_loose(leaf, param):
                name = _name(float_name(leaf.codes.name), layer)
                plain = name, Need(leaf.shape, None)
            indices = INDICES if param.type.dtype == "i64" else None
            yield Entry(tuple(_needs(leaf, layer, indices)), plain)


def _is_loose(leaf: Tensor | Dequant, param: Parameter) -> TypeGuard[Dequant]:
    """Tell whether a float tensor may stand in for codes: not where an op reads the
    codes, nor in ChatGLM's format, which is codes throughout."""
    made = isinstance(leaf, Quantized) and not is_repacked(param.recipe)
    return made and not isinstance(leaf, DequantRows | RoundedGroups)


def _needs(
    leaf: Tensor | Dequant, layer: int | None, indices: str | None
) -> list[tuple[str, Need]]:
    """List the requirements of a tensor, which is floats or ``indices``; of codes, and
    then of their scale and so on."""
    if isinstance(leaf, Tensor):
        return [(_name(leaf.name, layer), Need(leaf.stored, indices))]
    return [
        (
            _name(part.name, layer),
            Need(part.stored, leaf.dtypes().get(field), field in LOOSE),
        )
        for field, part in leaf.parts().items()
    ]


def _name(name: str, layer: int | None) -> str:
    return name if layer is None else name.replace("{i}", str(layer))


def grouped(names: Iterable[str]) -> list[str]:
    """List names; those that differ only in the indices of layer and expert take one
    line."""
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
