"""The registry of kernels: the table of ops that rendering and compiling go by."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jinja2

from glmc.backends.ledger import Place
from glmc.backends.triton import (
    attention,
    attention_heads,
    coded_experts,
    dispatch,
    dry,
    elementwise,
    latents,
    lines,
    memories,
    mixers,
    mixtures,
    norms,
    placement,
    pointwise,
    products,
    quantized,
    rope,
    scans,
    units,
)
from glmc.backends.triton.dry import AotSpec
from glmc.backends.triton.forms import Form
from glmc.backends.triton.model import Model, Part
from glmc.backends.triton.sketch import DTYPES
from glmc.backends.triton.uses import OpUse
from glmc.ir.errors import KernelDtypeError


@dataclass(frozen=True)
class Kernel:
    """The kernels of one op, as functions that render them.

    parts  pieces of text for one form of it, those that others share too; each is
           emitted once
    unfit  why no kernel takes a use, where it is not the form that says so
    told   the expression of a call by which a launcher tells such a use from others
    """

    parts: Callable[[Form, Model], Iterator[Part]]
    unfit: Callable[[OpUse], str | None] = lambda use: None
    told: str = ""


_PRODUCT = Kernel(
    products.parts, quantized.unfit, "scale is not None and (weight.shape, scale.shape)"
)
# In the order of kernels.py: what launchers call stands before them.
KERNELS: Mapping[str, Kernel] = {
    **dict.fromkeys((*norms.RMS, *norms.LAYER), Kernel(norms.parts)),
    **dict.fromkeys(norms.REDUCED, Kernel(norms.reduced_parts)),
    **dict.fromkeys(("activation", "act_mul"), Kernel(pointwise.parts)),
    "quantized_gemm": Kernel(quantized.parts),
    **dict.fromkeys(products.OPS, _PRODUCT),
    "rms_normalize": Kernel(norms.normalize_parts),
    **dict.fromkeys(elementwise.OPS, Kernel(elementwise.parts)),
    "rope": Kernel(rope.parts),
    "kv_write": Kernel(attention.write_parts),
    "moe_router": Kernel(
        mixtures.router_parts, mixtures.router_unfit, "weight.shape[0]"
    ),
    "moe_experts": Kernel(mixtures.parts, mixtures.experts_unfit, "alpha"),
    "quantized_experts": Kernel(
        coded_experts.parts, coded_experts.unfit, "(gate_up.shape, weigh)"
    ),
    "full_attention": Kernel(
        attention.full_parts, attention_heads.unfit, "(k.shape[-1], v.shape[-1])"
    ),
    "attention": Kernel(
        attention.parts, attention_heads.unfit, "(q.shape[-1], kv.values.shape[-1])"
    ),
    "short_conv": Kernel(mixers.conv_parts),
    "gated_norm": Kernel(mixers.norm_parts),
    "memory_scan": Kernel(memories.parts, mixers.unfit, "state.rows.shape[1:]"),
    "block_linear": Kernel(units.block_parts),
    "token_shift": Kernel(units.shift_parts),
    "steady_decay": Kernel(units.decay_parts),
    "scan": Kernel(mixers.scan_parts, mixers.unfit, "state.rows.shape[1:]"),
    "selective_scan": Kernel(scans.selective_parts),
    "lru_scan": Kernel(scans.lru_parts),
    "wkv_scan": Kernel(scans.wkv_parts),
    "mix": Kernel(mixers.parts, mixers.unfit, "state.rows.shape[1:]"),
    "latent_write": Kernel(latents.write_parts),
    "latent_attention": Kernel(
        latents.parts, latents.unfit, "(q.shape[2], kv_b.shape)"
    ),
    "qkv_attention": Kernel(attention.parts, attention_heads.unfit, "head_dim"),
}


def render_kernels(
    ops: Iterable[OpUse], env: jinja2.Environment, own: Collection[str] = ()
) -> str:
    """Render kernels.py for a model that uses ``ops``.

    ``env`` finds the templates as ``kernels/NAME.py.j2``. Ops without a kernel are
    re-exported from ``.reference``, those of ``own`` from the user's ``.own.NAME``.
    Raises GlmcError for a use that lacks what its kernels are specialised by.
    """
    every = list(ops)
    model = _model(every, own)
    sections = list(dict.fromkeys(_sections(model, env)))
    body = "\n\n\n".join(sections)
    names = sorted({use.name for use in every})
    torch = [n for n in names if n not in own and not model.forms(n)]
    given = {
        "imports": _imports(body, torch, [name for name in names if name in own]),
        "exported": [f'"{name}",' for name in names],
    }
    head = lines.render(env, "module" if body else "module_without", given)
    return "\n\n\n".join(filter(None, [head, body])) + "\n"


def _sections(model: Model, env: jinja2.Environment) -> Iterator[str]:
    """Yield the kernels and launchers of each form of each op, then the choosers among
    forms."""
    for op, kernel in KERNELS.items():
        for form in model.forms(op):
            for part in kernel.parts(form, model):
                yield lines.render(env, part.template, part.variables)
        yield from dispatch.chooser(op, kernel.told, model)


def aot_specs(
    kernels: str,
    ops: Iterable[OpUse],
    dtype: str,
    own: Collection[str] = (),
    cache: str = "",
    target: str = "",
) -> list[AotSpec]:
    """List every kernel of the model as its launchers launch it, each once.

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
    every = list(ops)
    uses = [u for u, p in zip(every, places(every, own), strict=True) if _runs(p)]
    return dry.launches(kernels, uses, dtype, cache, target)


def _runs(place: Place) -> bool:
    return place.where == "kernel"


def places(ops: Iterable[OpUse], own: Collection[str] = ()) -> list[Place]:
    """List where each use of an op runs on a GPU, in their order; ``own`` are the
    user's kernels."""
    every = list(ops)
    encodes = any(use.name == "full_attention" for use in every)
    return [Place("own") if use.name in own else _place(use, encodes) for use in every]


def usual(name: str) -> Place:
    """Return where an op runs in most models; with a kernel, the reason says when
    not."""
    found = placement.without(name) if name not in KERNELS else Place("kernel")
    if found.where == "kernel" and KERNELS[name].told:
        return Place(
            "kernel", "unless a layer has sizes or arguments that it does not take"
        )
    return found


def _place(use: OpUse, encodes: bool) -> Place:
    if encodes and use.name == "linear":
        return Place("torch", placement.ENCODER)
    if use.name not in KERNELS:
        return placement.without(use.name, use.once)
    more = ", ".join(placement.beyond(use))
    if more:
        return Place("reference", f"{use.name}: no kernel takes its {more}")
    reason = KERNELS[use.name].unfit(use)
    return Place("reference", reason) if reason else Place("kernel")


def _model(every: Sequence[OpUse], own: Collection[str]) -> Model:
    """Return the uses that need a kernel of glmc's: the ops but ``own``, and the ops
    that launchers call."""
    found = list(zip(every, places(every, own), strict=True))
    parts = products.with_parts(use for use, place in found if _runs(place))
    return Model(
        uses=[use for use in parts if use.name not in own],
        lost=[use for use, place in found if place.where in ("torch", "reference")],
    )


def _imports(body: str, torch: Sequence[str], own: Sequence[str]) -> list[str]:
    """Write the imports of kernels.py and the re-exports of ops without kernels, as
    isort sorts them."""
    standard = [
        f"import {name}" for name in ("functools", "math") if f"{name}." in body
    ]
    found = [["import torch"] if "torch." in body else []]
    if body:
        found[0] += ["import triton", "import triton.language as tl"]
    if "TensorDescriptor(" in body:
        name = "TensorDescriptor"
        found[0].append(f"from triton.tools.tensor_descriptor import {name}")
    local = ["from . import reference"] if "reference." in body else []
    local += [f"from .own.{name} import {name}" for name in own]
    local += ["from .ranks import current"] if "current()" in body else []
    local += [dispatch.imported("reference", torch)] if torch else []
    local += ["from .tuning import present_target"] if "present_target(" in body else []
    blocks = [block for block in (standard, *found, local) if block]
    return "\n\n".join("\n".join(block) for block in blocks).split("\n")
