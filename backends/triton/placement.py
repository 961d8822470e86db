"""Where each op of a model runs on a GPU: which have kernels, and why others have none.

``kernels.py`` has one function for each op, so what one layer of a model has that no
kernel takes sends the op of all its layers to the reference.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

from glmc.backends.ledger import Place
from glmc.backends.triton import latents, mixtures, structure
from glmc.backends.triton.uses import OpUse

_BY_DESIGN: Mapping[str, tuple[str, ...]] = {
    "a view: nothing is launched": ("split", "heads", "first_token", "stream"),
    "a lookup of single rows, which torch does as fast as any": (
        "embedding",
        "quantized_embedding",
        "add_table",
    ),
    "made once a call, for all layers": (
        "rope_table",
        "rope_table_linear",
        "rope_table_dynamic",
        "rope_table_llama3",
        "rope_table_yarn",
        "rope_table_longrope",
        "rope_table_proportional",
        "rope_table_sections",
        "sinusoids",
        "alibi_slopes",
        "query_scale",
        "layer_factors",
        "zeros_like",
        "known_ids",
        "no_selection",
    ),
    "reads and writes what its tokens have, and no fusion took it": (
        "add",
        "add_bias",
        "mul",
        "scale",
        "scale_by",
        "scale_by_factor",
        "scale_heads",
        "scale_experts",
        "clamp",
        "clamped_glu",
        "concat",
        "cut_below",
        "mix_streams",
        "correct_streams",
        "add_to_others",
        "soft_cap",
        "gate",
        "xielu",
        "rope",
        "layer_norm_heads",
        "rms_normalize",
        "layer_normalize",
        "kv_write",
        "index_write",
    ),
}
TORCH: Mapping[str, str] = {op: why for why, ops in _BY_DESIGN.items() for op in ops}
"""The ops that are torch's by design, and why. None reads a matrix, or the cache."""
_ENCODER = "an encoder multiplies all tokens of a text, and a library does that best"

Judge = Callable[[list[OpUse], str], str | None]
_JUDGES: Mapping[str, Judge] = {
    **dict.fromkeys(structure.ALL_ATTENTION_OPS, structure.attention_unfit),
    **dict.fromkeys(structure.MOE_OPS, mixtures.unfit),
    "latent_attention": lambda uses, _: latents.unfit(uses),
    **dict.fromkeys(
        (*structure.PRODUCT_OPS, "quantized_linear"), structure.codes_unfit
    ),
}


def unfit(uses: Iterable[OpUse]) -> Mapping[str, Place]:
    """The ops that a model uses as none of their kernels is used, and why."""
    every = list(uses)
    reasons = {
        name: reason
        for name, judge in _JUDGES.items()
        if structure.named(every, name) and (reason := judge(every, name))
    }
    found = {name: Place("reference", reason) for name, reason in reasons.items()}
    if structure.named(every, "full_attention"):
        found["linear"] = Place("torch", _ENCODER)
    return found


def places(
    uses: Iterable[OpUse], kernels: Collection[str], own: Collection[str] = ()
) -> Mapping[str, Place]:
    """Where each op of a model runs on a GPU.

    Args:
        uses: what needs a kernel: every op of the model but ``own``, and what launchers
            call.
        kernels: the ops that kernels are written for.
        own: ops whose kernel is the user's.
    """
    every = list(uses)
    refused = unfit(every)
    found = {use.name: _place(use.name, kernels, refused) for use in every}
    return found | dict.fromkeys(own, Place("own"))


def usual(name: str, kernels: Collection[str]) -> Place:
    """Where an op runs in most models; with a kernel, ``reason`` is when it does not.

    Args:
        name: the op.
        kernels: the ops that kernels are written for.
    """
    found = _place(name, kernels, {})
    if found.where == "kernel" and name in _JUDGES:
        return Place(
            "kernel", "unless a model has sizes or forms that it does not take"
        )
    return found


def _place(name: str, kernels: Collection[str], refused: Mapping[str, Place]) -> Place:
    if name in refused:
        return refused[name]
    if name in kernels:
        return Place("kernel")
    if name in TORCH:
        return Place("torch", TORCH[name])
    return Place("reference", f"{name}: no kernel is written for it")
