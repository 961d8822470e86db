"""The ops that have no kernel on a GPU, where they run, and why.

A use of an op has a kernel or it has none: where one layer of a model has what no
kernel takes, that layer runs as the reference does, and no other.
"""

from collections.abc import Mapping

from glmc.backends.ledger import Place
from glmc.backends.triton import forms
from glmc.backends.triton.uses import OpUse

_BY_DESIGN: Mapping[str, tuple[str, ...]] = {
    "a view: nothing is launched": (
        "split",
        "heads",
        "first_token",
        "stream",
        "repeat_streams",
        "own_part",
    ),
    "what ranks tell each other, by torch.distributed": (
        "all_reduce",
        "all_gather",
        "reduce_scatter",
    ),
    "a lookup of single rows, which torch does as fast as any": (
        "embedding",
        "quantized_embedding",
        "add_table",
        "own_rows",
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
        "distances",
        "query_scale",
        "layer_factors",
        "zeros_like",
        "zeros_summand",
        "known_ids",
        "no_selection",
        "no_snapshots",
    ),
}
TORCH: Mapping[str, str] = {op: why for why, ops in _BY_DESIGN.items() for op in ops}
"""The ops that are torch's by design, and why."""
_ONCE = "runs once a call, and not in each layer"
ENCODER = "an encoder multiplies all tokens of a text, and a library does that best"
# Arguments of ops that every kernel of theirs takes: numbers, what comes with others.
_NUMBERS = frozenset(
    {"eps", "scale", "heads", "kv_heads", "head_dim", "top_k", "top_groups", "bits"}
    | {"alpha", "fn", "sin", "k_norm", "first", "factor", "power", "reach", "at"}
    | {"gate_up_factor", "down_factor", "down_zeros"}
)


def without(op: str, once: bool = False) -> Place:
    """Place an op without any kernel; ``once``: it is in no layer, so a call runs it
    once."""
    if op in TORCH:
        return Place("torch", TORCH[op])
    if once:
        return Place("torch", _ONCE)
    return Place("reference", f"{op}: no kernel is written for it")


def beyond(use: OpUse) -> list[str]:
    """Name the arguments of a use that no kernel of its op knows; an optional one that
    is off is left out."""
    cls = forms.op_class(use.name)
    needed = {name for name, field in cls.model_fields.items() if field.is_required()}
    known = needed | forms.named(use.name) | _NUMBERS
    given = {name for name, value in use.attrs.items() if value} | use.operands
    return sorted(given - known)
