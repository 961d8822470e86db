"""The budget of a text: what it may use, and what it has used."""

import weakref
from dataclasses import dataclass

import torch

from glmc.ir.errors import TextBudgetError

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """The amounts of everything that a text may use.

    ``work`` counts elements read and written, computed from shapes before an op runs.
    """

    steps: int = 20_000_000
    """Nodes of the text that are evaluated."""
    work: int = 20_000_000_000
    live: int = 2 * GIB
    """Bytes of tensors that are alive at one time."""
    tensors: int = 200_000
    """Tensors that are alive at one time."""
    depth: int = 80
    """Calls within calls."""
    source: int = 2_000_000
    """Bytes of one file."""
    string: int = 200_000
    items: int = 200_000
    """Members of one list, tuple, set or mapping."""
    bits: int = 1024
    """Size of an integer."""


class Meter:
    """The amounts that a text has used; raises before a limit is passed."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.steps = limits.steps
        self.work = 0
        self.live = 0
        self._storages: dict[int, list[int]] = {}

    def step(self, count: int = 1) -> None:
        """Count evaluated nodes, or members that a builtin goes through."""
        self.steps -= count
        if self.steps < 0:
            raise TextBudgetError(f"more than {self.limits.steps:,} steps")

    def before(self, elements: int, work: int) -> None:
        """Count an op that writes ``elements`` and touches ``work``, before it runs."""
        limits = self.limits
        self.work += max(work, 0)
        if self.work > limits.work:
            raise TextBudgetError(f"ops that touch more than {limits.work:,} elements")
        if self.live + 8 * elements > limits.live:
            raise TextBudgetError(
                f"an op that makes {elements:,} elements, over the limit of "
                f"{limits.live / GIB:g} GiB of live tensors"
            )

    def track(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage as live until no tensor holds it."""
        if tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        held = self._storages.get(key)
        if held is None:
            self._storages[key] = held = [0, storage.nbytes()]
            self.live += held[1]
        held[0] += 1
        if len(self._storages) > self.limits.tensors:
            raise TextBudgetError(f"more than {self.limits.tensors:,} live tensors")
        weakref.finalize(tensor, self._forget, key)

    def _forget(self, key: int) -> None:
        held = self._storages.get(key)
        if held is None:
            return
        held[0] -= 1
        if held[0] <= 0:
            del self._storages[key]
            self.live -= held[1]

    def number(self, bits: int) -> None:
        """Check the size of an integer before it is computed."""
        if bits > self.limits.bits:
            raise TextBudgetError(f"an integer of more than {self.limits.bits} bits")

    def string(self, length: int) -> None:
        """Check the length of a string before it is made."""
        self.step(max(length, 0) // 64)
        if length > self.limits.string:
            raise TextBudgetError(
                f"a string of more than {self.limits.string:,} characters"
            )

    def items(self, count: int) -> None:
        """Check and count the members of a container before it is made."""
        if count > self.limits.items:
            raise TextBudgetError(f"more than {self.limits.items:,} members in one")
        self.step(max(count, 0))
