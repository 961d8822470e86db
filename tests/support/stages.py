"""The stages of a program, as the default target makes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from glmc.backends.target import DEFAULT, Target, target
from glmc.ir import passes as pipeline
from glmc.ir.graph import Program
from glmc.ir.passes import Pass, Stage

ANY: Target = target(DEFAULT)
PIPELINE: tuple[Pass, ...] = ANY.passes()


def run(
    program: Program, disabled: Iterable[str] = (), passes: Iterable[Pass] = PIPELINE
) -> Iterator[Stage]:
    """All stages, or those of other passes."""
    return pipeline.run(program, passes, disabled)
