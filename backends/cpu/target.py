"""The target of CPUs: C++ of the model computes a token in one call.

A build has its model as C++, which is compiled on the machine it runs on or ahead of
time. One product in the place of several reads its operand once, and a gated activation
is computed where its halves lie. To add a sum or a norm to a product saves nothing:
what it is computed from is still in the cache.
"""

from collections.abc import Collection, Sequence
from importlib.resources import files as folder
from typing import TYPE_CHECKING

from glmc.backends.cpu.names import NATIVE
from glmc.backends.ledger import Place
from glmc.backends.runtime.instructions import LEVELS
from glmc.backends.target import Ahead, Emitted, Target
from glmc.ir.graph import Program

if TYPE_CHECKING:
    from glmc.ir.passes import Pass


def _passes() -> "tuple[Pass, ...]":
    from glmc.backends.packing import unfit
    from glmc.ir.passes import general

    return general(unfit)


def _place(program: Program, own: Collection[str]) -> Sequence[Place]:
    from glmc.backends.cpu.placement import places

    return places(program)


def _usual(op: str) -> Place:
    from glmc.backends.cpu.placement import usual

    return usual(op)


def _files(program: Program, own: Collection[str]) -> dict[str, str]:
    from glmc.backends.cpu import source, steps
    from glmc.backends.cpu.layout import Layout
    from glmc.backends.cpu.plan import Plan, refusal
    from glmc.backends.templates import environment

    env = environment()
    if refusal(program):
        return {"steps.py": env.get_template("cpu/no_steps.py.j2").render()}
    plan = Plan(program)
    layout = Layout(plan)
    model = env.get_template("cpu/model.cpp.j2").render(source.view(plan, layout))
    table = env.get_template("cpu/steps.py.j2").render(steps.view(plan, layout))
    headers = folder("glmc.codegen_templates") / "cpu"
    texts = {
        f"{NATIVE}/{name}": (headers / name).read_text("utf-8")
        for name in source.headers(plan)
    }
    return {"steps.py": table, f"{NATIVE}/model.cpp": model, **texts}


def _compile_ahead(
    emitted: Emitted,
    program: Program,
    dtypes: Sequence[str],
    chips: Sequence[str],
    own: Collection[str],
) -> Ahead:
    from glmc.backends.cpu import ahead

    return ahead.compile_ahead(emitted, dtypes, chips)


CPU = Target(
    name="cpu",
    doc="CPUs, by C++ that the machine's compiler makes a library of.",
    machine="a CPU",
    passes=_passes,
    place=_place,
    usual=_usual,
    files=_files,
    operations={"cpu": "reference"},
    machines={"cpu": "cpu"},
    runtime=("cpu",),
    ahead=tuple(f"cpu:{level}" for level in LEVELS),
    compile_ahead=_compile_ahead,
    unit="call",
    units="calls",
)
