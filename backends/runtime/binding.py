"""Match the binding table with a checkpoint, before any weight is read.

Every tensor the model needs must be there with the right shape and kind of dtype, and
every tensor in the checkpoint must be used or waived. Needs no torch.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from .accounting import Account, Entry, Rules, account
from .faults import WeightsError
from .recipes import (
    Bind,
    Leaf,
    Quantized,
    Recipe,
    Shape,
    Tensor,
    changed,
    is_repacked,
    leaves,
    names,
)
from .shapes import shape_of
from .storage import INDICES, LOOSE, Found, Need, float_name

#: How many different problems of one kind an error lists.
LISTED = 5


def resolve(
    table: Iterable[Bind],
    headers: Mapping[str, Found],
    *,
    where: str,
    optional_prefix: str | None = None,
    old_names: Sequence[tuple[str, str]] = (),
    waived: Sequence[tuple[str, str]] = (),
    strict: bool = True,
) -> list[Bind]:
    """Returns one Bind a parameter, its recipe in the names that the checkpoint uses.

    Names may lack `optional_prefix`, as checkpoints of base models do, and end in the
    first of a pair of `old_names` instead of the second. `waived` holds (glob pattern,
    reason) for tensors that may stay unused; other unused tensors are
    an error, or with `strict=False` a warning. Raises WeightsError that lists
    everything that does not fit; `where` names the checkpoint in it.
    """
    binds = [bind for entry in table for bind in entry.each()]
    entries = [one for bind in binds for one in _entries(bind)]
    found = account(entries, headers, Rules(optional_prefix, old_names, waived))
    binds = [replace(bind, recipe=_own(bind.recipe, found)) for bind in binds]
    wrong = [f"{name} ({why})" for name, why in found.wrong.items()]
    wrong += _wrong_shapes(binds, headers, found)
    misfits = [
        _listed("missing", found.missing),
        _listed("of another shape or dtype", wrong),
    ]
    unused = _listed("not used by this model", found.unused)
    if unused and not strict:
        warnings.warn(f"{where}: tensors {unused}.", stacklevel=3)
        unused = ""
    if unused or any(misfits):
        raise WeightsError(_refusal(where, misfits, unused, found.fault))
    return binds


def _own(recipe: Recipe, found: Account) -> Recipe:
    """Returns the recipe in the checkpoint's own names; weights that it holds as
    floats, which quantisers do with modules of their choice, are plain tensors."""

    def settle(leaf: Leaf) -> Recipe:
        match leaf:
            case str():
                return found.spelt[leaf]
            case Tensor(name, shape):
                return Tensor(found.spelt[name], shape)
        if leaf.codes.name in found.plain:
            plain = float_name(leaf.codes.name)
            return Tensor(found.spelt[plain], leaf.shape())
        return leaf.with_parts(lambda part: Tensor(found.spelt[part.name], part.shape))

    return changed(recipe, settle)


def _entries(bind: Bind) -> Iterator[Entry]:
    """Yields the needs of a parameter's tensors; a bare name has its shape."""
    # Ops read codes as they are, and all of ChatGLM's are or none.
    loose = not is_repacked(bind.recipe)
    indices = INDICES if bind.dtype == INDICES else None
    for leaf in leaves(bind.recipe):
        match leaf:
            case str():
                whole = bind.shape if leaf == bind.recipe else None
                yield Entry(((leaf, Need(whole, indices)),))
            case Tensor(name, shape):
                yield Entry(((name, Need(shape, indices)),))
            case _:
                plain = None
                if loose and leaf.alone:
                    name = float_name(leaf.codes.name)
                    plain = name, Need(leaf.shape(), None)
                yield Entry(tuple(_needs(leaf)), plain)


def _needs(leaf: Quantized) -> Iterator[tuple[str, Need]]:
    for field, part in leaf.parts().items():
        kind = leaf.dtypes().get(field)
        yield part.name, Need(part.shape, kind, field in LOOSE)


def _wrong_shapes(
    binds: list[Bind], headers: Mapping[str, Found], found: Account
) -> list[str]:
    """Lists parameters whose tensors are right one by one and do not make the whole."""
    wrong = []
    right = found.bound - found.wrong.keys()
    for bind in binds:
        sources = list(names(bind.recipe))
        if right.issuperset(sources):
            reason = _misfit(bind.recipe, bind.shape, headers)
            wrong += [f"{', '.join(sources)} ({reason})"] if reason else []
    return wrong


def _misfit(recipe: Recipe, shape: Shape, headers: Mapping[str, Found]) -> str | None:
    try:
        given = shape_of(recipe, lambda name: headers[name].shape or ())
    except ValueError as error:
        return str(error)
    if given == shape:
        return None
    made = "" if isinstance(recipe, str) else "together "
    return f"{made}{list(given)}, the model needs {list(shape)}"


def _listed(kind: str, items: Iterable[str]) -> str:
    """Returns `3 missing: a.*.w (2 layers), b`; nothing for no items."""
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
