"""Bound what the rendering of one chat template may use, counted as it uses it.

Two accounts: steps, which are time, and bytes made, which are memory. Whatever walks a
value (printing, comparing, hashing, JSON) pays for each part as often as it walks over
it, so lists that share their parts cost what they would cost to print. What an
operation can make at most is refused before it is made.
"""

import sys
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextvars import ContextVar
from types import GeneratorType
from typing import Any

#: A step is a node of the template evaluated, or a part of a value walked over.
MAX_STEPS = 1 << 23
#: All that a rendering makes; a long chat is joined several times over.
MAX_MADE = 1 << 28
#: A filter, a call, a round of a loop: what its own Python costs, in steps.
OPERATION = 4
#: Characters that C code passes over in the time of a step.
CHARACTERS = 256
#: Integers of more bits are for no chat.
MAX_BITS = 1 << 12

_WALKED = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)


def words(text: str) -> frozenset[str]:
    """Returns the words of a text, as a set."""
    return frozenset(text.split())


class TooMuchError(Exception):
    """The template asks for more than any chat needs."""


class Budget:
    """The two accounts of one rendering, and the answers it has marked.

    `written` counts the characters that have come out; `spans` holds where the blocks
    `{% generation %}` began and ended among them.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.made = 0
        self.written = 0
        self.spans: list[tuple[int, int]] = []

    def step(self, count: int = OPERATION) -> None:
        """Pays for time."""
        self.steps += count
        if self.steps > MAX_STEPS:
            raise TooMuchError(f"more than {MAX_STEPS} steps")

    def make(self, size: int) -> None:
        """Pays for `size` bytes."""
        self.made += size
        if self.made > MAX_MADE:
            raise TooMuchError(f"more than {MAX_MADE >> 20} MiB made")

    def room(self, size: int) -> None:
        """Refuses an operation that may make `size` bytes, before it makes them."""
        if size > MAX_MADE:
            raise TooMuchError("an operation on values that large")

    def walk(self, value: object) -> int:
        """Pays for a walk over all of a value; returns its size in characters."""
        if isinstance(value, str | bytes):
            self.step(1 + len(value) // CHARACTERS)
            return len(value)
        cells, parts = 0, [value]
        while parts:
            part = parts.pop()
            if isinstance(part, str | bytes):
                self.step(len(part) // CHARACTERS)
                cells += len(part)
            elif isinstance(part, int):
                cells += 1 + part.bit_length() // 3
            elif isinstance(part, range):
                self.step(len(part))
                cells += 8 * len(part)
            elif (inner := _inside(part)) is not None:
                self.step(OPERATION + len(inner))
                parts.extend(inner)
            cells += 8
        self.step(1)
        return cells

    def pass_over(self, value: object) -> int:
        """Pays for a walk over a value's own items; returns their number."""
        try:
            # Asked of anything, since a template passes what it likes.
            count = len(value)  # type: ignore[arg-type]
        except TypeError:
            count = 0
        text = isinstance(value, str | bytes)
        self.step(1 + (count // CHARACTERS if text else count // 8))
        return count

    def hold(self, value: Any) -> Any:
        """Returns a generator's values as a list, so that they can be weighed."""
        return list(value) if isinstance(value, GeneratorType) else value

    def keep(self, value: Any) -> Any:
        """Pays for what an operation made; a generator pays as it goes."""
        if isinstance(value, str | bytes | list | tuple | dict):
            self.make(sys.getsizeof(value))
        elif isinstance(value, GeneratorType):
            return self.each(value)
        elif isinstance(value, int):
            check_bits(value.bit_length())
        return value

    def each(self, values: Iterator[Any]) -> Iterator[Any]:
        """Yields the values of a generator, each an operation."""
        for value in values:
            self.step()
            yield self.keep(value)


def _inside(value: object) -> Any:
    """Returns the parts of a value that printing or comparing it walks over, or
    None."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, _WALKED):
        return value
    if type(value).__name__ == "Namespace":  # Jinja's, which prints what it holds
        return [getattr(value, "_Namespace__attrs", None)]
    return None


def check_bits(bits: int) -> None:
    """Refuses integers that grow without end."""
    if bits > MAX_BITS:
        raise TooMuchError(f"a number of more than {MAX_BITS} bits")


#: The account of the rendering that runs here.
CURRENT: ContextVar[Budget] = ContextVar("CURRENT")
