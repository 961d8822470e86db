"""Targets that builds are made for: values, all of them in one table.

The driver, the ledger, ``glmc inspect`` and the emitted package ask the target for its
passes, for what runs each op and for the files it adds; nothing else knows machines.
"""

from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from glmc.backends.ledger import Place, Placement, Row
from glmc.ir.errors import UnknownDeviceError
from glmc.ir.graph import Program
from glmc.ir.ledger import Entry, count
from glmc.ir.op import registry

if TYPE_CHECKING:  # what only looks at a build needs no passes
    from glmc.backends.triton.paper.predict import Gpu
    from glmc.backends.triton.paper.sheet import Line
    from glmc.ir.cost import Call
    from glmc.ir.passes import Pass, Stage

DEFAULT = "any"
"""The target of a build where none is asked for."""

TARGETS: dict[str, str] = {
    "any": "glmc.backends.triton.target:ANY",
    "cpu": "glmc.backends.cpu.target:CPU",
    "cuda": "glmc.backends.triton.target:CUDA",
    "hip": "glmc.backends.triton.target:HIP",
}
"""Every target by name: the module that holds it, imported when it is asked for, and
what it is called there."""

PROMPT = 2
"""Tokens of a row from which on a call is a prompt."""


@dataclass(frozen=True)
class Ahead:
    """The kernels that were compiled ahead of time for a build."""

    files: Mapping[str, str | bytes]
    """Path to content of the files that join the build."""
    rows: Sequence[Mapping[str, Any]]
    """The resources that each kernel takes, as plain data."""
    table: str
    """The same for a terminal."""


Emitted = Mapping[str, str | bytes]
"""Path to content of the files of a build."""
CompileAhead = Callable[
    [Emitted, Program, Sequence[str], Sequence[str], Collection[str]], Ahead
]
"""(files of the build, program, dtypes, names of chips, ops whose kernel is the user's)
to what was compiled. Raises GlmcError for what cannot be."""


OnPaper = Callable[
    [str, Program, str, "Call", "Gpu", Collection[str]], "Iterable[Line]"
]
"""(text of the kernels, program, dtype, call, GPU, ops whose kernel is the user's) to
the launches of the call, predicted. Raises GlmcError where kernels do not compile."""


@dataclass(frozen=True)
class Target:
    """A kind of machine that builds are made for.

    Fields that hold functions import what they need when they are called: looking at a
    build loads no passes and renders no templates.
    """

    name: str
    doc: str
    """One line for people."""
    machine: str
    """The machine of its ops, as it stands in a sentence after "on": "a GPU"."""
    passes: Callable[[], "tuple[Pass, ...]"]
    """All passes in order: what is true on any machine, then the target's own."""
    place: Callable[[Program, Collection[str]], Sequence[Place]]
    """The implementation of each op of a program, with the reason if it has no kernel:
    a place for each op of each graph, in their order. The second argument names the ops
    whose kernel is the user's."""
    usual: Callable[[str], Place]
    """The implementation of an op in most models; with a kernel, the reason says when
    not."""
    files: Callable[[Program, Collection[str]], dict[str, str]]
    """Path to text of the files that it adds to a build of a program; the second
    argument names the ops whose kernel is the user's."""
    operations: Mapping[str, str]
    """Kind of device, as torch calls it, to the build's module of operations for it."""
    machines: Mapping[str, str] = field(default_factory=dict)
    """Kind of device to the build's module that readies the operations and records
    steps, a ``Machine`` of ``backends/runtime/modules.py``; kinds that need neither are
    left out."""
    runtime: tuple[str, ...] = ()
    """Modules of ``backends/runtime`` that its builds have beside what all have."""
    decoding: tuple[str, ...] = ()
    """Those that only models have which decode token by token."""
    own_kernels: bool = False
    """True where a user's kernel may take the place of an op's: ``--kernel``."""
    engine_products: tuple[str, ...] = ("cpu",)
    """Kinds of device on which an engine that serves a build makes the products of
    floats by its own: torch's were half as fast as vLLM's on a CPU."""
    ahead: tuple[str, ...] = ()
    """The chips ``--aot`` may name: ``cuda:90``; empty where nothing is compiled
    ahead."""
    compile_ahead: CompileAhead | None = None
    """Compiles the files of a build for some of these."""
    on_paper: OnPaper | None = None
    """Predicts what a GPU does with the kernels of a build, from their binaries."""
    unit: str = "launch"
    """The unit that :meth:`launches` counts, in a word."""
    units: str = "launches"
    """The same for several."""
    launched: Mapping[str, int] = field(default_factory=dict)
    """Ops that do not launch one kernel, to how many they launch for a prompt."""
    launched_by_a_token: Mapping[str, int] = field(default_factory=dict)
    """The same for a token of decode, where that differs."""

    @property
    def accelerator(self) -> str:
        """The kind of device beside CPUs that its builds have operations for, or ""."""
        return next((kind for kind in self.operations if kind != "cpu"), "")

    def stages(
        self,
        program: Program,
        disabled: Iterable[str] = (),
        before: "Iterable[Pass]" = (),
    ) -> "Iterator[Stage]":
        """Run the passes, after those of ``before``; see :func:`glmc.ir.passes.run`."""
        from glmc.ir.passes import run

        return run(program, (*before, *self.passes()), disabled)

    def launches(self, ops: Iterable[str], tokens: int = PROMPT) -> int:
        """Count what some ops, by mnemonic, launch in a call of so many tokens a row;
        views launch nothing."""
        one = self.launched_by_a_token if tokens == 1 else {}
        return sum(
            one.get(op, self.launched.get(op, 1))
            for op in ops
            if not registry()[op].is_view
        )

    def rows(self, entries: Iterable[Entry]) -> list[Row]:
        """Add to each entry of a ledger what it saves on this target."""
        return [
            Row(
                **dict(entry),
                launches_saved=self.launches(entry.replaced)
                - self.launches(entry.made),
            )
            for entry in entries
        ]

    def placements(
        self, program: Program, own: Collection[str] = ()
    ) -> list[Placement]:
        """Return the implementation that runs each op of a program; ``own`` have
        kernels of the user."""
        ops = [(graph, op) for graph in program.graphs for op in graph.ops]
        found = zip(ops, self.place(program, own), strict=True)
        return [
            Placement(
                op=op.mnemonic,
                graph=graph.name,
                layers=count(graph),
                at=", ".join(f"%{name}" for name in op.outs),
                where=place.where,
                reason=place.reason,
            )
            for (graph, op), place in found
        ]


def target(name: str) -> Target:
    """Return the target of that name.

    Raises:
        GlmcError: when there is none.
    """
    if name not in TARGETS:
        raise UnknownDeviceError(
            f"Unknown target {name!r}: a build is made for one of {', '.join(TARGETS)}."
            f" Without --target it is {DEFAULT}: {target(DEFAULT).doc}"
        )
    module, _, attribute = TARGETS[name].partition(":")
    found: Target = getattr(import_module(module), attribute)
    return found


def every_pass() -> "dict[str, tuple[Pass, list[str]]]":
    """Return each pass of any target by name, with the names of the targets that run
    it."""
    found: dict[str, tuple[Pass, list[str]]] = {}
    for name in TARGETS:
        for one in target(name).passes():
            found.setdefault(one.name, (one, []))[1].append(name)
    return found
