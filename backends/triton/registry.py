"""Which op has which kernel: the table that rendering and compiling go by."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jinja2

from glmc.backends import layout
from glmc.backends.ledger import Place
from glmc.backends.triton import (
    dry,
    latents,
    mixtures,
    placement,
    products,
    structure,
    tiles,
)
from glmc.backends.triton.dry import AotSpec
from glmc.backends.triton.sketch import DTYPES
from glmc.backends.triton.uses import OpUse, presence
from glmc.ir.errors import KernelDtypeError

Variables = dict[str, object]
LINE = 88


@dataclass(frozen=True)
class Kernel:
    """How the kernels of one op come about.

    parts  templates of its section, in the order of their text; parts that several
           ops share are emitted once
    cached whether it reads keys and values, which may be kept as codes
    """

    parts: tuple[str, ...]
    cached: bool = False


_EXPERTS = ("moe_act", "moe_rows", "moe_blocks", "moe_sort", "moe_experts")
_LATENTS = ("latent_tiles", "latent_prefill", "latent_decode", "latent_attention")
_ATTENTION = ("rows", "softmax", "kv_cache", "scores", "prefill", "decode_parts")
_QKV = ("weighted", "kv_store", "qkv_heads", "qkv_prologue", "qkv_decode")
# Rendered for each kind of layer.
_BY_KIND = {"qkv_heads": "heads", "qkv_prologue": "prologue", "qkv_decode": "decode"}

KERNELS: Mapping[str, Kernel] = {
    **{name: Kernel((*products.PARTS, name)) for name in products.OPS},
    "rms_norm": Kernel(("rows", "weighted", "rms_norm")),
    "add_rms_norm": Kernel(("rows", "weighted", "add_rms_norm")),
    "layer_norm": Kernel(("rows", "layer_norm")),
    "add_layer_norm": Kernel(("rows", "add_layer_norm")),
    "activation": Kernel(("rows", "activations", "activation")),
    "act_mul": Kernel(("rows", "activations", "act_mul")),
    "quantized_gemm": Kernel(
        ("rows", "quantized_codes", "quantized_gemm"),
    ),
    "moe_router": Kernel(("rows", "moe_router")),
    "moe_experts": Kernel(("rows", "activations", *_EXPERTS)),
    "attention": Kernel((*_ATTENTION, "decode", "attention"), True),
    "latent_write": Kernel(("rows", "latent_write")),
    "latent_attention": Kernel(
        ("rows", "softmax", *_LATENTS),
    ),
    "full_attention": Kernel(
        ("rows", "softmax", "full_attention"),
    ),
    "qkv_attention": Kernel((*_ATTENTION, *_QKV, "qkv_attention"), True),
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
    "quantized_codes",
    "quantized_gemm",
    "products",
    "product_gemv",
    "product_skinny",
    "product",
    "linear",
    "quantized_linear",
    "linear_add",
    "linear_act",
    "rms_norm_linear",
    "layer_norm_linear",
    "moe_router",
    *_EXPERTS,
    "softmax",
    "full_attention",
    "kv_cache",
    "scores",
    "prefill",
    "decode_parts",
    "decode",
    "attention",
    "latent_write",
    *_LATENTS,
    "kv_store",
    "qkv_heads",
    "qkv_prologue",
    "qkv_decode",
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
        if part in _BY_KIND:
            for kind in kinds:
                text = _render(env, part, variables | _kind(kind, kinds))
                for name, short in _BY_KIND.items():
                    text = text.replace(name, kind.name(kinds, short))
                sections.append(text)
        else:
            sections.append(_render(env, part, variables))
    return "\n\n\n".join(sections) + "\n"


def aot_specs(
    kernels: str,
    ops: Iterable[OpUse],
    dtype: str,
    own: Collection[str] = (),
    cache: str = "",
    target: str = "",
) -> list[AotSpec]:
    """Every kernel of the model as its launchers launch it, each once.

    What launches the kernels of ``own`` is the user's, and unknown here.

    ``kernels`` is the text of kernels.py. ``dtype`` is "f32", "f16" or "bf16": weights,
    activations and cache; ``cache`` is "int8" or "fp8_e4m3" where that has its own;
    ``target`` is the GPU, one without features of its own where it is left out. Raises
    GlmcError for another dtype.
    """
    if dtype not in DTYPES:
        raise KernelDtypeError(
            f"The Triton backend has no kernels for dtype {dtype!r}: it computes with"
            f" {', '.join(DTYPES)}. Choose one of them."
        )
    given = [use for use in ops if use.name not in own]
    launched = kernels_of(given)
    uses = [use for use in given if use.name in launched]
    return dry.launches(kernels, uses, dtype, cache, target)


def _ours(ops: Iterable[OpUse], own: Collection[str]) -> list[OpUse]:
    """What needs a kernel of glmc's: the ops but ``own``, and what launchers call."""
    given = [use for use in ops if use.name not in own]
    # The reference calls no kernel, so the parts of what it runs are not asked for.
    refused = placement.unfit(given)
    parts = products.with_parts(use for use in given if use.name not in refused)
    rest = [use for use in given if use.name in refused]
    return [use for use in (*parts, *rest) if use.name not in own]


def kernels_of(uses: list[OpUse]) -> Mapping[str, Kernel]:
    """The kernels that fit a model; the other ops are the reference's."""
    without = placement.unfit(uses)
    return {name: kernel for name, kernel in KERNELS.items() if name not in without}


def places(ops: Iterable[OpUse], own: Collection[str] = ()) -> Mapping[str, Place]:
    """Where each op of a model runs on a GPU; ``own`` are the user's."""
    return placement.places(_ours(ops, own), KERNELS, own)


def usual(name: str) -> Place:
    """Where an op runs on a GPU in most models, and when it does not."""
    return placement.usual(name, KERNELS)


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
    described = any(kernels[name].cached for name in ours)
    coded = any(use.name in ours and "bits" in use.attrs for use in uses)
    return {
        "launches": bool(ours),
        "standard": "\n".join(_standard(ours, coded)),
        "allocates": any(name in structure.ALLOCATING_OPS for name in ours),
        "described": described,
        "imports": "\n".join(_imports(names, own, kernels, described)),
        "exported": names,
    }


def _standard(ours: list[str], coded: bool) -> Iterator[str]:
    """Imports of what launchers keep their counters with, and divide sizes by."""
    if any(name in products.OPS for name in ours):
        yield "import functools"
    if coded:
        yield "import math"


def _imports(
    names: list[str], own: Collection[str], kernels: Collection[str], described: bool
) -> Iterator[str]:
    yield from (f"from .own.{name} import {name}" for name in names if name in own)
    rest = [name for name in names if name not in own and name not in kernels]
    if rest:
        yield _import(rest)
    if described:
        yield "from .tuning import present_target"


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
    quantized = structure.named(uses, "quantized_gemm")
    multiplied = structure.named(uses, *products.OPS)
    mixed = structure.named(uses, *structure.MOE_OPS)
    return {
        **products.variables(uses),
        **mixtures.variables(uses),
        **latents.variables(uses),
        "codes_biased": any("bias" in use.operands for use in quantized),
        "gemm": [(size, json.dumps(tile)) for size, tile in tiles.GEMM.items()],
        "norms": norms,
        "by_rows": norms or bool(fns) or bool(mixed + multiplied),
        "weight_in": place,
        "weighted": f"_weighted_{place}",
        "shift": presence("bias" in use.operands for use in shifted),
        "fns": fns,
        "act": f"_{fns[0]}" if fns else "",
        "tile": tiles.POINTWISE,
        "pointwise": bool(structure.named(uses, *structure.POINTWISE_OPS)),
        "call": layout.call,
        "bracketed": layout.bracketed,
        "rms_offset": structure.offset(uses, structure.RMS_OPS),
        "layer_offset": structure.offset(uses, structure.LAYER_OPS),
        **_attending(plan),
        **_kinds(kinds),
    }


def _attending(plan: structure.AttentionPlan) -> Variables:
    """What the templates of attention ask for."""
    constants = [(option.constant, option.keyword) for option in plan.options]
    names = [constant for constant, _ in constants]
    return {
        "window": plan.presence["window"],
        "chunked": plan.presence["chunk"],
        "capped": plan.presence["softcap"],
        "learned": plan.has("learned"),
        "prefixed": plan.has("prefix"),
        "sloped": plan.has("slopes"),
        "sunk": plan.has("sinks"),
        "pointers": list(plan.pointers),
        "vectors": list(plan.vectors),
        "constants": constants,
        "given": [keyword for _, keyword in constants],
        "keywords": [(option.keyword, option.default) for option in plan.options],
        "scored": [name for name in ("SCALE", "CAP") if name in names],
        "ranged": [name for name in ("WINDOW", "CHUNK") if name in names],
        "splits": plan.splits,
        "fan": tiles.FAN,
        "described": [(n, _tuple(targets)) for n, targets in tiles.DESCRIBED.items()],
        "prefill": [(size, json.dumps(tile)) for size, tile in plan.prefill.items()],
        "decode": [(size, json.dumps(tile)) for size, tile in plan.decode.items()],
    }


def _tuple(names: Iterable[str]) -> str:
    return layout.tuple_of([json.dumps(name) for name in names], 4)


def _kinds(kinds: Sequence[structure.Prologue]) -> Variables:
    """What the launcher of qkv_attention asks for."""
    rope = len(kinds) > 1 or any(kind.rope for kind in kinds)
    norm = len(kinds) > 1 or any(kind.norm for kind in kinds)
    sectioned, offsets = structure.sectioned(kinds), structure.offsets(kinds)
    return {
        "sectioned": sectioned,
        "offsets": offsets,
        "key": ["style", "weight_in"]
        + ["sections"] * sectioned
        + ["unit_offset"] * offsets,
        "inputs": ["cos", "sin"] * rope + ["q_norm", "k_norm", "eps"] * norm,
        "kinds": [
            {
                "prologue": f"_{kind.name(kinds, 'prologue')}",
                "decode": f"_{kind.name(kinds, 'decode')}",
                "key": kind.key(kinds),
            }
            for kind in kinds
        ],
    }


def _kind(kind: structure.Prologue, kinds: Sequence[structure.Prologue]) -> Variables:
    """What the functions of one kind of layer ask for."""
    return {
        "rope": kind.rope,
        "norm": kind.norm,
        "style": kind.style,
        "sections": kind.sections,
        "unit_offset": kind.unit_offset,
        "weighted": f"_weighted_{kind.weight_in}",
        "warps": tiles.PROLOGUE_WARPS,
        "rotation": ["cos", "sin"] * kind.rope,
        "sizes": ["D"] + ["ROTARY"] * kind.rope + ["EPS"] * kind.norm + ["BLOCK"],
        # The width of a call depends on the name, which is put in later.
        "qkv_heads": f"_{kind.name(kinds, 'heads')}",
    }
