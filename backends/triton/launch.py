"""A launch: the arguments of a kernel, each said once.

Printed from it are the kernel's signature, the comment that says what its arguments
are, and the launcher's call. What ahead-of-time compilation asks for follows from the
printed launcher (:mod:`glmc.backends.triton.dry`).
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Kind = Literal["pointer", "stride", "count", "constant", "tile"]
WIDTH = 88
# Columns of a glossary after which meanings begin, where names are short enough.
NAMES = 32
# Signs of a kernel's name and its grid that stand on one line with the launch.
LONG = 64


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel.

    kind     "pointer": a tensor, or None; "stride": an integer for which a multiple of
             16 is compiled apart; "count": one for which it is not; "constant": known
             when compiling; "tile": a constant that comes with the launcher's tile
    source   the expression in the launcher; empty where one before it brings it too
    shape    what is said beside the name, such as "[M, E]"
    meaning  one line, or empty where the name says it
    """

    name: str
    kind: Kind
    source: str
    shape: str = ""
    meaning: str = ""


def pointer(
    name: str, shape: str = "", meaning: str = "", *, source: str | None = None
) -> Argument:
    """Declare a tensor, or None; ``source`` defaults to the name."""
    return Argument(name, "pointer", name if source is None else source, shape, meaning)


def stride(name: str, source: str) -> Argument:
    """Declare the number of elements from one row, or token, or head, to the next."""
    return Argument(name, "stride", source)


def count(name: str, source: str | None = None, meaning: str = "") -> Argument:
    """Declare a number that differs between calls: one compiled kernel serves all."""
    return Argument(name, "count", name if source is None else source, "", meaning)


def constant(name: str, source: str | None = None, meaning: str = "") -> Argument:
    """Declare a number that is known when compiling."""
    return Argument(name, "constant", name if source is None else source, "", meaning)


def tile(*names: str) -> tuple[Argument, ...]:
    """Declare the constants that the launcher's ``**tile`` gives."""
    return tuple(Argument(name, "tile", "") for name in names)


@dataclass(frozen=True)
class Launch:
    """The launch of a kernel by a launcher.

    kernel    its name
    grid      the launch grid, as an expression of the launcher
    arguments in the order of the signature; constants come last
    options   further keywords of the launch: "num_warps=1", "**tile"
    """

    kernel: str
    grid: str
    arguments: tuple[Argument, ...]
    options: tuple[str, ...] = ()

    def signature(self) -> list[str]:
        """Write the decorator, the name, and each argument on its line."""
        counts = [f'"{a.name}"' for a in self.arguments if a.kind == "count"]
        apart = f"(do_not_specialize=[{', '.join(counts)}])" if counts else ""
        lines = [f"@triton.jit{apart}", f"def {self.kernel}("]
        for argument in self.arguments:
            known = argument.kind in ("constant", "tile")
            lines.append(f"    {argument.name}{': tl.constexpr' if known else ''},")
        return [*lines, "):"]

    def call(self) -> list[str]:
        """Write the launch, each argument on its line."""
        before, grid = [], self.grid
        if len(self.kernel) + len(grid) > LONG:
            before, grid = [f"grid = {grid}"], "grid"
        given = [_given(argument) for argument in self.arguments if argument.source]
        each = [f"    {argument}," for argument in (*given, *self.options)]
        return [*before, f"{self.kernel}[{grid}](", *each, ")"]

    def glossary(self) -> list[str]:
        """Write comment lines that explain the arguments which need it."""
        told = [a for a in self.arguments if a.shape or a.meaning]
        return [line for alike in _alike(told) for line in _entry(alike)]


def _given(argument: Argument) -> str:
    if argument.kind != "constant":
        return argument.source
    return f"{argument.name}={argument.source}"


def _alike(told: Sequence[Argument]) -> Iterator[list[Argument]]:
    """Group neighbours that have the same explanation."""
    for _, alike in groupby(told, lambda argument: (argument.shape, argument.meaning)):
        yield list(alike)


def _entry(alike: Sequence[Argument]) -> Iterator[str]:
    """Write ``#   x, y [M, E]   rows that …``, and the lines that it runs over."""
    names = ", ".join(argument.name for argument in alike)
    named = f"{names} {alike[0].shape}".rstrip()
    # One that is too long for its column stands three signs before its meaning.
    left = f"#   {named.ljust(NAMES - 3)}"
    left += "   " if left[-1] != " " else ""
    if not alike[0].meaning:
        yield left.rstrip()
        return
    room = WIDTH - max(len(left), NAMES)
    first, *rest = textwrap.wrap(alike[0].meaning, max(room, 24))
    yield left + first
    yield from (f"#{' ' * (len(left) - 1)}{line}" for line in rest)
