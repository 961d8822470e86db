"""Matching the binding table with a checkpoint, before any weight is read.

Every tensor the model needs must be there with the right shape and kind of dtype, and
every tensor in the checkpoint must be used or waived. Needs no torch.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from .recipes import (
    Bind,
    DequantRows,
    Leaf,
    Quantized,
    Recipe,
    Shape,
    Tensor,
    changed,
    is_kept,
    leaves,
    names,
    renamed,
)
from .shapes import shape_of, weight_shape
from .storage import FLOATS, Need, float_name, storage_fault

#: How many different problems of one kind an error lists.
LISTED = 5


class WeightsError(ValueError):
    """A checkpoint that cannot be loaded: what, where, and what to do about it."""


class Header(NamedTuple):
    """What a checkpoint says about a tensor without reading it."""

    shape: Shape
    dtype: str


def resolve(
    table: Iterable[Bind],
    headers: Mapping[str, Header],
    *,
    where: str,
    optional_prefix: str | None = None,
    old_names: Sequence[tuple[str, str]] = (),
    waived: Sequence[tuple[str, str]] = (),
    strict: bool = True,
) -> list[Bind]:
    """One Bind a parameter, its recipe in the names that the checkpoint uses.

    Names may lack `optional_prefix`, as checkpoints of base models do, and end in the
    first of a pair of `old_names` instead of the second. `waived` holds (glob pattern,
    reason) for tensors that may stay unused; other unused tensors are
    an error, or with `strict=False` a warning. Raises WeightsError that lists
    everything that does not fit; `where` names the checkpoint in it.
    """
    own = _own_names(headers, optional_prefix, old_names)
    binds = [
        replace(bind, recipe=_own(bind.recipe, own, headers))
        for entry in table
        for bind in entry.each()
    ]
    used = {name for bind in binds for name in names(bind.recipe)}
    absent = used - headers.keys()
    spare = {name for name in headers.keys() - used if not _is_waived(name, waived)}
    spare -= {name for full, name in own.items() if _is_waived(full, waived)}
    needs = dict(need for bind in binds for need in _needs(bind))
    misfits = [
        _listed("missing", absent),
        _listed("of another shape", _wrong_shapes(binds, headers, absent)),
        _listed("not floating point", _wrong_dtypes(needs, headers, codes=False)),
        _listed("not quantised codes", _wrong_dtypes(needs, headers, codes=True)),
    ]
    unused = _listed("not used by this model", spare)
    if unused and not strict:
        warnings.warn(f"{where}: tensors {unused}.", stacklevel=3)
        unused = ""
    if unused or any(misfits):
        fault = storage_fault(needs, headers)
        raise WeightsError(_refusal(where, misfits, unused, fault))
    return binds


def _own(
    recipe: Recipe, spelt: Mapping[str, str], headers: Mapping[str, Header]
) -> Recipe:
    """The recipe in the checkpoint's own names; weights that it holds as floats, which
    quantisers do with modules of their choice, are plain tensors."""

    def settle(leaf: Leaf) -> Recipe:
        if not isinstance(leaf, Quantized) or leaf.scale.name in headers:
            return leaf
        plain = float_name(leaf.codes.name)
        plain = spelt.get(plain, plain)
        found = headers.get(plain)
        floats = found is not None and found.dtype in FLOATS
        return Tensor(plain, weight_shape(leaf)) if floats else leaf

    own = renamed(recipe, lambda name: spelt.get(name, name))
    # Ops read codes as they are, and all of ChatGLM's are or none.
    fixed = is_kept(own) or any(isinstance(leaf, DequantRows) for leaf in leaves(own))
    return own if fixed else changed(own, settle)


def _needs(bind: Bind) -> Iterator[tuple[str, Need]]:
    """What the tensors of a parameter must be; a bare name has its shape."""
    for leaf in leaves(bind.recipe):
        match leaf:
            case str():
                yield leaf, Need(bind.shape, None)
            case Tensor(name, shape):
                yield name, Need(shape, None)
            case _:
                for field, part in leaf.parts().items():
                    kind = leaf.dtypes().get(field)
                    yield part.name, Need(part.shape, kind, field == "scale")


def _own_names(
    headers: Mapping[str, Header],
    prefix: str | None,
    old_names: Sequence[tuple[str, str]],
) -> dict[str, str]:
    """What a checkpoint calls a tensor that it spells differently, by its full name."""
    found: dict[str, str] = {}
    for name in headers:
        today = name
        for old, new in old_names:
            if name.endswith(old):
                today = name.removesuffix(old) + new
        full = [today]
        if prefix and not today.startswith(prefix):
            full.append(prefix + today)
        found |= {one: name for one in full if one not in headers}
    return found


def _is_waived(name: str, waived: Sequence[tuple[str, str]]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern, _ in waived)


def _wrong_shapes(
    binds: list[Bind], headers: Mapping[str, Header], absent: set[str]
) -> list[str]:
    wrong = []
    for bind in binds:
        sources = list(names(bind.recipe))
        if not absent.isdisjoint(sources):
            continue
        reason = _misfit(bind.recipe, bind.shape, headers)
        if reason:
            wrong.append(f"{', '.join(sources)} ({reason})")
    return wrong


def _misfit(recipe: Recipe, shape: Shape, headers: Mapping[str, Header]) -> str | None:
    try:
        given = shape_of(recipe, lambda name: headers[name].shape)
    except ValueError as error:
        return str(error)
    if given == shape:
        return None
    made = "" if isinstance(recipe, str) else "together "
    return f"{made}{list(given)}, the model needs {list(shape)}"


def _wrong_dtypes(
    needs: Mapping[str, Need], headers: Mapping[str, Header], codes: bool
) -> list[str]:
    return [
        f"{name} ({headers[name].dtype})"
        for name, need in sorted(needs.items())
        if name in headers
        and bool(need.codes) == codes
        and not need.takes(headers[name].dtype)
    ]


def _listed(kind: str, items: Iterable[str]) -> str:
    """`3 missing: a.*.w (2 layers), b`; nothing for no items."""
    groups: dict[str, list[str]] = {}
    for item in sorted(items):
        groups.setdefault(re.sub(r"\.\d+\.", ".*.", item), []).append(item)
    if not groups:
        return ""
    shown = [
        found[0] if len(found) == 1 else f"{name} ({len(found)} layers)"
        for name, found in list(groups.items())[:LISTED]
    ]
    if len(groups) > LISTED:
        shown.append(f"and {len(groups) - LISTED} more kinds")
    count = sum(map(len, groups.values()))
    return f"{count} {kind}: {', '.join(shown)}"


def _refusal(where: str, misfits: list[str], unused: str, fault: str | None) -> str:
    told = "; ".join(filter(None, [*misfits, unused]))
    advice = (
        "Give the checkpoint that belongs to the config this was compiled from."
        if any(misfits)
        else "If they do not matter, load with strict=False."
    )
    return f"{where} does not fit this model: tensors {told}. {fault or advice}"
