"""Notice bounds that tensors of whole numbers are held against: windows, lengths.

A window of 4096 in a text changes nothing for 60 tokens. So it is noted at every place
whether what was met lay on both sides of the bound. 0 and 1 are no bounds: positions
and masks lie on one side of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_ORDERS = {"lt", "le", "gt", "ge", "less", "less_equal", "greater", "greater_equal"}
_PAIRS = {"minimum", "maximum"}
_CLAMPS = {"clamp", "clip", "clamp_max", "clamp_"}
_DIAGONALS = {"tril", "triu", "tril_", "triu_"}
_PERIODS = {"floordiv", "mod", "floor_divide", "remainder"}
NAMES = _ORDERS | _PAIRS | _CLAMPS | _DIAGONALS | _PERIODS
"""The ops, without what stands before the dot."""

Sides = set[bool]
"""The sides of a bound that were met; empty: nothing is held against one."""
_BOTH = {True, False}


def met(name: str, given: Sequence[Any], named: Mapping[str, Any]) -> Sides:
    """Return the sides of its bound that the arguments of an op of `NAMES` are on."""
    if not given or not isinstance(given[0], torch.Tensor | int):
        return set()
    value, rest = given[0], given[1:]
    if name in _DIAGONALS:
        return _diagonal(value, rest[0] if rest else named.get("diagonal", 0))
    if name in _CLAMPS:
        other = named.get("max", rest[-1] if rest else None)
        if name != "clamp_max" and "max" not in named and len(rest) < 2:
            other = None
    else:
        other = rest[0] if rest else named.get("other")
    if not (_whole(value) and _whole(other)):
        return set()
    if isinstance(value, int) and isinstance(other, int):
        return set()
    if name in _PERIODS:
        beyond = bool((torch.as_tensor(value).abs() >= other).any())
        return _BOTH if beyond else {False}
    above = torch.as_tensor(value > other)
    return {True} & {bool(above.any())} | {False} & {bool(above.all())}


def sliced(shape: Sequence[int], key: Any) -> Sides:
    """Return the sides that slices of the last few (``x[:, -4096:]``) are on."""
    keys = [k for k in (key if isinstance(key, tuple) else (key,)) if k is not None]
    at = next((at for at, one in enumerate(keys) if one is Ellipsis), len(keys))
    if any(getattr(one, "dtype", None) == torch.bool for one in keys):
        return set()
    after = keys[at + 1 :]
    sizes = [*shape[:at], *shape[len(shape) - len(after) :]]
    found: Sides = set()
    for size, one in zip(sizes, [*keys[:at], *after], strict=False):
        start = one.start if isinstance(one, slice) else None
        if type(start) is int and start < -1:
            found |= _BOTH if -start <= size else {False}
    return found


def _diagonal(value: Any, at: Any) -> Sides:
    if type(at) is not int or value.ndim < 2 or -1 <= at <= 1:
        return set()
    rows, columns = value.shape[-2:]
    return _BOTH if -rows < at < columns else {False}


def _whole(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        kind = value.dtype
        whole = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
        return whole and not value.is_meta and value.numel() > 0
    return type(value) is int and value > 1
