"""Matching the binding table with a checkpoint, before any weight is read.

Every tensor the model needs must be there with the right shape and a float dtype, and
every tensor in the checkpoint must be used or waived. Needs no torch.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from .recipes import Bind, Recipe, Shape, names, renamed, shape_of

#: Dtypes of weights, by the names safetensors gives them.
FLOATS = ("F64", "F32", "F16", "BF16")
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
    waived: Sequence[tuple[str, str]] = (),
    strict: bool = True,
) -> list[Bind]:
    """One Bind a parameter, its recipe in the names that the checkpoint uses.

    Names may lack `optional_prefix`, as checkpoints of base models do. `waived` holds
    (glob pattern, reason) for tensors that may stay unused; other unused tensors are
    an error, or with `strict=False` a warning. Raises WeightsError that lists
    everything that does not fit; `where` names the checkpoint in it.
    """
    short = _short_names(headers, optional_prefix)
    binds = [
        replace(bind, recipe=renamed(bind.recipe, lambda n: _own(n, short)))
        for entry in table
        for bind in entry.each()
    ]
    used = {name for bind in binds for name in names(bind.recipe)}
    absent = used - headers.keys()
    spare = {name for name in headers.keys() - used if not _is_waived(name, waived)}
    spare -= {own for full, own in short.items() if _is_waived(full, waived)}
    misfits = [
        _listed("missing", absent),
        _listed("of another shape", _wrong_shapes(binds, headers, absent)),
        _listed("not floating point", _wrong_dtypes(used - absent, headers)),
    ]
    unused = _listed("not used by this model", spare)
    if unused and not strict:
        warnings.warn(f"{where}: tensors {unused}.", stacklevel=3)
        unused = ""
    if unused or any(misfits):
        raise WeightsError(_refusal(where, misfits, unused))
    return binds


def _short_names(headers: Mapping[str, Header], prefix: str | None) -> dict[str, str]:
    """For tensors that are there without the prefix: full name to own name."""
    if prefix is None:
        return {}
    return {
        prefix + name: name
        for name in headers
        if not name.startswith(prefix) and prefix + name not in headers
    }


def _own(name: str, short: Mapping[str, str]) -> str:
    """The checkpoint's name for a tensor; within a stack the first one's decides."""
    first = name.replace("{x}", "0")
    own = short.get(first, first)
    return name.removeprefix(first.removesuffix(own))


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


def _wrong_dtypes(used: set[str], headers: Mapping[str, Header]) -> list[str]:
    return [
        f"{name} ({headers[name].dtype})"
        for name in sorted(used)
        if headers[name].dtype not in FLOATS
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


def _refusal(where: str, misfits: list[str], unused: str) -> str:
    told = "; ".join(filter(None, [*misfits, unused]))
    advice = (
        "Give the checkpoint that belongs to the config this was compiled from"
        if any(misfits)
        else "If they do not matter, load with strict=False"
    )
    return f"{where} does not fit this model: tensors {told}. {advice}."
