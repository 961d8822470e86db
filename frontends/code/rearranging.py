"""einops in its plain forms: axes by name, in brackets where they are one."""

import math
import re
from typing import TYPE_CHECKING, Any

import torch

from glmc.frontends.code import tensors

if TYPE_CHECKING:
    from glmc.frontends.code.machine import Machine

_SIDE = re.compile(r"\s*(\([\w\s]*\)|\w+|\.\.\.)")
_LONGEST = 200

Groups = list[list[str]]
"""The axes of each dimension."""


def _groups(machine: "Machine", side: str, dims: int) -> Groups:
    parts = _SIDE.findall(side)
    if len(side) > _LONGEST or _SIDE.sub("", side).strip() or parts.count("...") > 1:
        machine.refuse(f"the pattern {side[:60]!r} of einops is not read")
    if "..." in parts:
        at = parts.index("...")
        parts[at : at + 1] = [f"...{n}" for n in range(dims)]
    return [part.strip("()").replace("1", " ").split() if part in ("1", "(1)")
            else part.strip("()").split() for part in parts]  # fmt: skip


def _sizes(
    machine: "Machine", value: torch.Tensor, groups: Groups, given: dict[str, Any]
) -> dict[str, int]:
    """Return the size of every axis on the left: given, or the rest of a dimension."""
    if len(groups) != value.ndim:
        raise machine.error("ValueError", "einops: another number of dimensions")
    found = {name: int(size) for name, size in given.items()}
    for axes, size in zip(groups, value.shape, strict=True):
        known = math.prod(found[axis] for axis in axes if axis in found)
        open_ = [axis for axis in axes if axis not in found]
        whole = known == size or open_
        if len(open_) > 1 or known < 1 or size % known or not whole:
            raise machine.error("ValueError", f"einops: {axes} do not make {size}")
        found |= dict.fromkeys(open_, size // known)
    return found


def _moved(
    machine: "Machine", value: Any, pattern: str, given: dict[str, Any], new: bool
) -> Any:
    if not isinstance(value, torch.Tensor) or pattern.count("->") != 1:
        machine.refuse("einops with something else than a tensor and one arrow")
    first, second = pattern.split("->")
    hidden = value.ndim - len(_SIDE.findall(first)) + 1
    before = _groups(machine, first, hidden)
    after = _groups(machine, second, hidden)
    left = [axis for axes in before for axis in axes]
    right = [axis for axes in after for axis in axes]
    sizes = _sizes(machine, value, before, given)
    added = [axis for axis in right if axis not in left]
    if len(set(left)) < len(left) or set(left) - set(right) or (added and not new):
        machine.refuse(f"the pattern {pattern[:60]!r} of einops is not read")
    flat = [sizes[axis] for axis in left]
    value = tensors.apply(machine, "reshape", (value, flat + [1] * len(added)), {})
    order = [(left + added).index(axis) for axis in right]
    value = tensors.apply(machine, "permute", (value, order), {})
    if added:
        wide = [sizes[axis] for axis in right]
        value = tensors.apply(machine, "expand", (value, wide), {})
    whole = [math.prod(sizes[axis] for axis in axes) for axes in after]
    return tensors.apply(machine, "reshape", (value, whole), {})


def rearrange(machine: "Machine", value: Any, pattern: str, **given: Any) -> Any:
    """Do ``einops.rearrange(x, "b t (h d) -> b h t d", h=8)``."""
    return _moved(machine, value, pattern, given, new=False)


def repeat(machine: "Machine", value: Any, pattern: str, **given: Any) -> Any:
    """Do ``einops.repeat(x, "t d -> t h d", h=8)``."""
    return _moved(machine, value, pattern, given, new=True)
