"""The passes in order, run with the verifier after each."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from glmc.ir.errors import UnknownPassError
from glmc.ir.graph import Program
from glmc.ir.ledger import Entry
from glmc.ir.node import Node
from glmc.ir.passes import fusions
from glmc.ir.passes.coded import Packing
from glmc.ir.passes.quantized import KeepQuantized
from glmc.ir.verify import verify


class Pass(Protocol):
    """The interface of a pass."""

    @property
    def name(self) -> str: ...

    @property
    def doc(self) -> str: ...

    def run(self, program: Program) -> tuple[Program, list[Entry]]: ...


def general(packing: Packing) -> tuple[Pass, ...]:
    """Give the passes that are true on any machine, in their order.

    A target's own come after them; ``packing`` says which codes it can pack.
    """
    return (
        fusions.MERGE_QKV,
        fusions.MERGE_GATE_UP,
        KeepQuantized(packing),
        fusions.ACT_MUL,
    )


class Stage(Node):
    """A program after a pass, and what the pass did."""

    name: str
    doc: str
    program: Program
    ledger: tuple[Entry, ...] = ()


def named(names: Iterable[str], passes: Iterable[Pass]) -> tuple[Pass, ...]:
    """Pick passes by name, in the order of the names.

    Raises:
        GlmcError: when there is no such pass.
    """
    known = {one.name: one for one in passes}
    for name in names:
        if name not in known:
            listed = ", ".join(known)
            raise UnknownPassError(
                f"there is no pass {name!r}; the passes are {listed}."
            )
    return tuple(known[name] for name in names)


def run(
    program: Program,
    passes: Iterable[Pass],
    disabled: Iterable[str] = (),
) -> Iterator[Stage]:
    """Yield the lowered program and then one stage per enabled pass, each verified.

    A pass that changes nothing gives the program that it was given.
    """
    verify(program)
    yield Stage(name="lowered", doc="The model as plain ops.", program=program)
    skip = set(disabled)
    for one in passes:
        if one.name in skip:
            continue
        after, entries = one.run(program)
        if after is not program:
            verify(after)
        program = after
        yield Stage(name=one.name, doc=one.doc, program=program, ledger=tuple(entries))
