"""Which op has which kernel: the table that rendering and compiling go by."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import jinja2

from glmc.backends.triton import (
    latents,
    mixtures,
    products,
    specs,
    structure,
    tiles,
)
from glmc.backends.triton.specs import AotSpec
from glmc.backends.triton.uses import OpUse, presence
from glmc.ir.errors import KernelDtypeError

Variables = dict[str, object]
LINE = 88


@dataclass(frozen=True)
class Kernel:
    """How the kernels of one op come about.

    parts  templates of its section, in the order of their text; parts that several
           ops share are emitted once
    specs  what its launcher asks the compiler for: (use, all uses, dtype) -> specs
    """

    parts: tuple[str, ...]
    specs: Callable[[OpUse, list[OpUse], str], list[AotSpec]]


QUANTIZED = ("quantized_codes", "quantized_kernels")
_ATTENTION = ("rows", "softmax", "attention", "prefill", "decode")

KERNELS: Mapping[str, Kernel] = {
    **{name: Kernel((*products.PARTS, name), products.specs) for name in products.OPS},
    "rms_norm": Kernel(("rows", "weighted", "rms_norm"), specs.norm),
    "add_rms_norm": Kernel(("rows", "weighted", "add_rms_norm"), specs.norm),
    "layer_norm": Kernel(("rows", "layer_norm"), specs.norm),
    "add_layer_norm": Kernel(("rows", "add_layer_norm"), specs.norm),
    "activation": Kernel(("rows", "activations", "activation"), specs.pointwise),
    "act_mul": Kernel(("rows", "activations", "act_mul"), specs.pointwise),
    "quantized_linear": Kernel(
        ("rows", *QUANTIZED, "quantized_linear"), specs.quantized_linear
    ),
    "moe_router": Kernel(("rows", "moe_router"), mixtures.moe_router),
    "moe_experts": Kernel(("rows", "activations", "moe_experts"), mixtures.moe_experts),
    "attention": Kernel(_ATTENTION, specs.attention),
    "latent_write": Kernel(("rows", "latent_write"), latents.latent_write),
    "latent_attention": Kernel(
        ("rows", "softmax", "latent_attention"), latents.latent_attention
    ),
    "full_attention": Kernel(
        ("rows", "softmax", "full_attention"), specs.full_attention
    ),
    "qkv_attention": Kernel(
        (*_ATTENTION, "weighted", "qkv_prologue", "qkv_attention"), specs.qkv_attention
    ),
}
# The order of the parts in kernels.py.
PARTS = (
    "rows",
    "weighted",
    "rms_norm",
    "add_rms_norm",
    "layer_norm",
    "add_layer_norm",
    "activations",
    "activation",
    "act_mul",
    "products",
    "product_gemv",
    "product_skinny",
    "product",
    "linear",
    "linear_add",
    "linear_act",
    "rms_norm_linear",
    "layer_norm_linear",
    *QUANTIZED,
    "quantized_linear",
    "moe_router",
    "moe_experts",
    "softmax",
    "full_attention",
    "attention",
    "prefill",
    "decode",
    "latent_write",
    "latent_attention",
    "qkv_prologue",
    "qkv_attention",
)


def render_kernels(
    ops: Iterable[OpUse], env: jinja2.Environment, own: Collection[str] = ()
) -> str:
    """The text of kernels.py for a model that uses ``ops``.

    ``env`` finds the templates as ``kernels/NAME.py.j2``. Ops without a kernel are
    re-exported from ``.reference``, those of ``own`` from the user's ``.own.NAME``.
    Raises GlmcError for a use that lacks what its kernels are specialised by.
    """
    every = list(ops)
    uses = _ours(every, own)
    kinds = structure.prologues(uses)
    variables = _variables(uses)
    sections = [_render(env, "module", _module(every, own))]
    for part in _parts(uses):
        if part == "qkv_prologue":
            for kind in kinds:
                text = _render(env, part, variables | _prologue(kind))
                sections.append(text.replace("qkv_prologue", kind.name(kinds)))
        else:
            sections.append(_render(env, part, variables))
    return "\n\n\n".join(sections) + "\n"


def aot_specs(
    ops: Iterable[OpUse], dtype: str, own: Collection[str] = ()
) -> list[AotSpec]:
    """Every kernel of the model as its launchers launch it, each once.

    What launches the kernels of ``own`` is the user's, and unknown here.

    ``dtype`` is "f32", "f16" or "bf16": weights, activations and cache. Raises
    GlmcError for another one.
    """
    if dtype not in specs.POINTERS:
        known = ", ".join(specs.POINTERS)
        raise KernelDtypeError(
            f"The Triton backend has no kernels for dtype {dtype!r}: it computes with"
            f" {known}. Choose one of them."
        )
    uses = _ours(ops, own)
    found: list[AotSpec] = []
    for use in uses:
        kernel = kernels_of(uses).get(use.name)
        wanted = kernel.specs(use, uses, dtype) if kernel else []
        found += [spec for spec in wanted if spec not in found]
    return found


def _ours(ops: Iterable[OpUse], own: Collection[str]) -> list[OpUse]:
    """What needs a kernel of glmc's: the ops but ``own``, and what launchers call."""
    given = products.with_parts(use for use in ops if use.name not in own)
    return [use for use in given if use.name not in own]


def kernels_of(uses: list[OpUse]) -> Mapping[str, Kernel]:
    """The kernels that fit a model; where one does not, ops are the reference's."""
    without: tuple[str, ...] = ()
    if not structure.attention_plan(uses).has_kernels:
        without += structure.ATTENTION_OPS
    if not latents.plan(uses):
        without += ("latent_attention",)
    if not mixtures.router_form(uses):
        without += ("moe_router",)
    if not mixtures.experts_form(uses):
        without += ("moe_experts",)
    if structure.named(uses, "full_attention"):
        without += ("linear",)  # an encoder's products have many rows
    if not without:
        return KERNELS
    return {name: kernel for name, kernel in KERNELS.items() if name not in without}


def _parts(uses: list[OpUse]) -> list[str]:
    kernels = kernels_of(uses)
    wanted = {part for u in uses if u.name in kernels for part in kernels[u.name].parts}
    if not structure.weighs(uses):
        wanted.discard("weighted")
    if not structure.functions(uses):
        wanted.discard("activations")
    return [part for part in PARTS if part in wanted]


def _render(env: jinja2.Environment, part: str, variables: Variables) -> str:
    return env.get_template(f"kernels/{part}.py.j2").render(variables).strip("\n")


def _module(uses: list[OpUse], own: Collection[str]) -> Variables:
    names = sorted({use.name for use in uses})
    kernels = kernels_of(uses)
    ours = [name for name in names if name in kernels and name not in own]
    return {
        "launches": bool(ours),
        "counts": "quantized_linear" in ours,
        "allocates": any(name in structure.ALLOCATING_OPS for name in ours),
        "multiplies": any(name in products.OPS for name in ours),
        "imports": "\n".join(_imports(names, own, kernels)),
        "exported": names,
    }


def _imports(
    names: list[str], own: Collection[str], kernels: Collection[str]
) -> Iterator[str]:
    yield from (f"from .own.{name} import {name}" for name in names if name in own)
    rest = [name for name in names if name not in own and name not in kernels]
    if rest:
        yield _import(rest)


def _import(names: list[str]) -> str:
    line = f"from .reference import {', '.join(names)}"
    if len(line) <= LINE:
        return line
    lines = "".join(f"    {name},\n" for name in names)
    return f"from .reference import (\n{lines})"


def _variables(uses: list[OpUse]) -> Variables:
    plan = structure.attention_plan(uses)
    kinds = structure.prologues(uses)
    shifted = structure.named(uses, *structure.LAYER_OPS)
    norms = bool(structure.named(uses, *structure.RMS_OPS) or shifted)
    fns = structure.functions(uses)
    place = structure.weight_in(uses)
    quantized = structure.named(uses, "quantized_linear")
    multiplied = structure.named(uses, *products.OPS)
    mixed = structure.named(uses, *structure.MOE_OPS)
    return {
        **products.variables(uses),
        **mixtures.variables(uses),
        **latents.variables(uses),
        "grouped": structure.grouped(quantized),
        "zeroed": any("zeros" in use.operands for use in quantized),
        "codes_biased": any("bias" in use.operands for use in quantized),
        "gemv": json.dumps(tiles.GEMV),
        "gemm": [(size, json.dumps(tile)) for size, tile in tiles.GEMM.items()],
        "few": tiles.GEMV_ROWS,
        "norms": norms,
        "by_rows": norms or bool(fns) or bool(quantized) or bool(mixed + multiplied),
        "weight_in": place,
        "weighted": f"_weighted_{place}",
        "shift": presence("bias" in use.operands for use in shifted),
        "fns": fns,
        "act": f"_{fns[0]}" if fns else "",
        "tile": tiles.POINTWISE,
        "pointwise": bool(structure.named(uses, *structure.POINTWISE_OPS)),
        "window": plan.window,
        "prefixed": plan.prefixed,
        "learned": plan.learned,
        "capped": plan.capped,
        "sloped": plan.sloped,
        "sunk": plan.sunk,
        "changed": plan.sloped or plan.capped != "none",
        "extras": plan.extras,
        "offsets": structure.offsets(kinds),
        "rms_offset": structure.offset(uses, structure.RMS_OPS),
        "layer_offset": structure.offset(uses, structure.LAYER_OPS),
        "sectioned": structure.sectioned(kinds),
        "splits": plan.splits,
        "prefill": [(size, json.dumps(tile)) for size, tile in plan.prefill.items()],
        "decode": [(size, json.dumps(tile)) for size, tile in plan.decode.items()],
        "combine_warps": tiles.COMBINE_WARPS,
        "several": len(kinds) > 1,
        "prologues": [
            {
                "function": f"_{k.name(kinds)}",
                "key": k.key(kinds),
                "rope": k.rope,
                "norm": k.norm,
            }
            for k in kinds
        ],
    }


def _prologue(kind: structure.Prologue) -> Variables:
    return {
        "rope": kind.rope,
        "norm": kind.norm,
        "style": kind.style,
        "sections": kind.sections,
        "unit_offset": kind.unit_offset,
        "weighted": f"_weighted_{kind.weight_in}",
        "warps": tiles.PROLOGUE_WARPS,
    }
