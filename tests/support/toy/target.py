"""A machine that has kernels for sums alone, and turns every add of two around."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from glmc.backends.ledger import Place
from glmc.backends.target import Ahead, Emitted, Target
from glmc.ir.graph import Program
from glmc.ir.passes import Pass, fusions, general
from glmc.ir.passes.rewrite import Fusion, Rule

_NORM = "%h = rms_norm(%s, @w, eps=$eps, weight_in=$place)"
TURN = Fusion(
    name="toy-turn",
    doc="The toy adds the other way round.",
    rules=(
        Rule(
            match=f"%s = add(%x, %y)\n{_NORM}",
            replace=f"%s = add(%y, %x)\n{_NORM}",
        ),
    ),
)
FILE = '''"""The operations of the toy: those of the reference, and a sum of its own."""

from .reference import *


def add(x, y):
    """x + y, by the toy."""
    CALLS.append(tuple(x.shape))
    return y + x


CALLS = []
'''
MACHINE = '''"""What the toy asks for."""

TOLD = []


def ready(operations):
    TOLD.append(operations.__name__.rpartition(".")[2])


def packing(dtype):
    """Weights stay as they are."""


def loaded(model):
    TOLD.append(str(model.device))


def recorder(device):
    return None
'''


def passes() -> tuple[Pass, ...]:
    return (*general(unfit), fusions.ADD_LAYER_NORM, TURN)


def unfit(bits: int, width: int, group: int) -> str | None:
    return "the toy reads floats"


def usual(op: str) -> Place:
    if op == "add":
        return Place("kernel")
    return Place("torch", f"the toy leaves {op} to torch")


def place(program: Program, own: Collection[str]) -> list[Place]:
    return [usual(op.mnemonic) for graph in program.graphs for op in graph.ops]


def compile_ahead(
    emitted: Emitted,
    program: Program,
    dtypes: Sequence[str],
    chips: Sequence[str],
    own: Collection[str],
) -> Ahead:
    library = f"{sorted(emitted)[0]} for {', '.join(chips)} in {', '.join(dtypes)}"
    return Ahead({"aot/toy.so": library.encode()}, [{"chip": chips[0]}], "a table")


TOY = Target(
    name="toy",
    doc="A machine that adds.",
    machine="a toy",
    passes=passes,
    place=place,
    usual=usual,
    files=lambda program, own: {"toy_ops.py": FILE, "toy_machine.py": MACHINE},
    operations={"cpu": "toy_ops"},
    machines={"cpu": "toy_machine"},
    unit="turn",
    units="turns",
    ahead=("toy:1",),
    compile_ahead=compile_ahead,
    launched={"add": 3},
)
