"""The targets with Triton's kernels: GPUs of NVIDIA and AMD, with CPUs or without."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from glmc.backends.ledger import Place
from glmc.backends.target import Ahead, Emitted, Target
from glmc.backends.triton.targets import LIMITS
from glmc.backends.triton.uses import OpUse
from glmc.ir.cost import Call
from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op

if TYPE_CHECKING:
    from glmc.backends.triton.paper.predict import Gpu
    from glmc.backends.triton.paper.sheet import Line
    from glmc.ir.passes import Pass

LAUNCHED = {
    "block_attention": 4,
    "block_select": 5,
    "index_select": 6,
    "latent_attention": 3,
    "memory_scan": 2,
    "mix": 8,
    "moe_experts": 2,
    "quantized_experts": 2,
    "moe_router": 2,
    "qkv_attention": 2,
    "reduce_add_layer_norm": 2,
    "reduce_add_rms_norm": 2,
    "short_conv": 2,
}
"""Ops with more than one launch. A product has one for the few rows of decode, and a
mixer without a norm one less."""

BY_A_TOKEN = {"qkv_attention": 1, "mix": 1, "short_conv": 1}
"""Every query of a prompt needs all keys to be there, and a scan all that is convolved;
a token waits for its own."""


def _passes() -> "tuple[Pass, ...]":
    from glmc.backends import packing
    from glmc.backends.triton.passes import mixers, products, qkv_attention
    from glmc.ir.passes import fusions, general
    from glmc.ir.passes.carry import CarryResidual

    return (
        *general(packing.unfit),
        products.LINEAR_ACT,
        products.LINEAR_ADD,
        CarryResidual(),
        fusions.ADD_RMS_NORM,
        fusions.ADD_LAYER_NORM,
        products.RMS_NORM_LINEAR,
        products.LAYER_NORM_LINEAR,
        qkv_attention.QKV_ATTENTION,
        mixers.MIX,
        mixers.MIX_NORM,
        mixers.MERGE_SELECTED,
        mixers.STEP_SCAN,
        mixers.SCAN_GATE,
        fusions.REDUCE_ADD_NORM,
    )


def uses(program: Program) -> list[OpUse]:
    """List every op of a program as the choice of kernels sees it."""
    return [_use(program, graph, op) for graph in program.graphs for op in graph.ops]


def _use(program: Program, graph: Graph, op: Op) -> OpUse:
    types = program.operand_types(graph, op)
    return OpUse(
        name=op.mnemonic,
        attrs=op.attributes(),
        operands=frozenset(field for field, _, _ in op.operands()),
        shapes={field: type_of.dims for field, type_of in types.items()},
        once=not graph.layers,
    )


def _place(program: Program, own: Collection[str]) -> Sequence[Place]:
    from glmc.backends.triton.registry import places

    return places(uses(program), own)


def _usual(op: str) -> Place:
    from glmc.backends.triton.registry import usual

    return usual(op)


def _files(program: Program, own: Collection[str]) -> dict[str, str]:
    from glmc.backends.templates import environment
    from glmc.backends.triton.registry import render_kernels

    return {"kernels.py": render_kernels(uses(program), environment(), own)}


def _compile_ahead(
    emitted: Emitted,
    program: Program,
    dtypes: Sequence[str],
    chips: Sequence[str],
    own: Collection[str],
) -> Ahead:
    from glmc.backends.triton import aot

    kernels = emitted["kernels.py"]
    assert isinstance(kernels, str)
    made = aot.compile_ahead(kernels, uses(program), dtypes, chips, own)
    return Ahead(aot.files(made), aot.rows(made), aot.table(made))


def _on_paper(
    kernels: str,
    program: Program,
    dtype: str,
    call: Call,
    on: "Gpu",
    own: Collection[str],
) -> "Iterable[Line]":
    from glmc.backends.triton.calls import sizes_of
    from glmc.backends.triton.paper.sheet import sheet

    ops = [(graph, op) for graph in program.graphs for op in graph.ops]
    costs = [op.cost(program.operand_types(graph, op), call) for graph, op in ops]
    sizes = sizes_of(call.batch, call.tokens, call.context)
    return sheet(kernels, zip(uses(program), costs, strict=True), dtype, sizes, on, own)


def _ahead(maker: str) -> tuple[str, ...]:
    return tuple(name for name in LIMITS if name.startswith(f"{maker}:"))


ANY = Target(
    name="any",
    doc="GPUs of NVIDIA and AMD by Triton's kernels, and CPUs by the reference.",
    machine="a GPU",
    passes=_passes,
    place=_place,
    usual=_usual,
    files=_files,
    operations={"cpu": "reference", "cuda": "kernels"},
    machines={"cuda": "gpu"},
    runtime=("gpu",),
    decoding=("graphs",),
    own_kernels=True,
    ahead=tuple(LIMITS),
    compile_ahead=_compile_ahead,
    on_paper=_on_paper,
    launched=LAUNCHED,
    launched_by_a_token=BY_A_TOKEN,
)
# ROCm's torch calls its devices cuda as well.
CUDA = replace(
    ANY,
    name="cuda",
    doc="GPUs of NVIDIA, by Triton's kernels.",
    operations={"cuda": "kernels"},
    ahead=_ahead("cuda"),
)
HIP = replace(
    CUDA,
    name="hip",
    doc="GPUs of AMD, by Triton's kernels.",
    ahead=_ahead("hip"),
)
