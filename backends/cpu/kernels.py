"""The ops that have a kernel in C++, and what each takes.

A kernel is a function in a header of ``codegen_templates/cpu/``, called as the op is:
results, required operands, and then by their names what may be left out and attributes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from glmc.ir.graph import Graph, Program
from glmc.ir.op import Op
from glmc.ir.types import TensorType

Types = Mapping[str, TensorType]
FUNCTIONS = (
    *("silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "tanh"),
    *("sigmoid", "softplus"),
)
"""The functions of ``elementwise.h``."""


def _always(op: Op, types: Types) -> str | None:
    return None


@dataclass(frozen=True)
class Kernel:
    """The kernel of an op.

    header   the header that has it
    options  optional operands and attributes that it takes, in the order in which its
             options are declared
    unfit    why it does not take a use, or None
    name     its function, where that has another name than the op
    constant what is computed once, at load time, by functions of reference.py: an
             expression of the op's attributes, and the option that is given it
    """

    header: str
    options: tuple[str, ...] = ()
    unfit: Callable[[Op, Types], str | None] = _always
    name: str = ""
    constant: tuple[str, str] | None = None


def _even(op: Op, types: Types) -> str | None:
    """Products and keys take columns in pairs."""
    matrix = types["weight"]
    if len(matrix.dims) != 2:
        return f"its weight {matrix} is no matrix"
    return f"its weight {matrix} has an odd width" if int(matrix.dims[1]) % 2 else None


def _kept(op: Op, types: Types) -> str | None:
    return "its cache has a dtype of its own" if types["kv"].dtype else None


def _attention(op: Op, types: Types) -> str | None:
    width = int(types["q"].dims[-1])
    odd = f"keys of {width} channels are odd" if width % 2 else None
    return _kept(op, types) or odd


def _positions(op: Op, types: Types) -> str | None:
    pos = types["pos"]
    return None if pos.dims == ("B", "T") else f"positions {pos} have several streams"


def _codes(op: Op, types: Types) -> str | None:
    """Blocks of codes have whole words, and groups whole ones too."""
    bits, rows = dict(op.attributes())["bits"], types["scale"].dims
    assert isinstance(bits, int)
    width = int(types["weight"].dims[1]) * 8 // bits
    groups = int(rows[1]) if len(rows) > 1 else 1
    if width % groups or width // groups % (32 // bits):
        return f"{groups} groups of {width} codes do not fill words"
    return None


def _function(op: Op, types: Types) -> str | None:
    fn = dict(op.attributes()).get("fn")
    return None if fn is None or fn in FUNCTIONS else f"its function {fn} has no C++"


def _experts(op: Op, types: Types) -> str | None:
    """Give every expert blocks of its own, or say why not."""
    _, rows, columns = map(int, types["gate_up"].dims)
    _, out, width = map(int, types["down"].dims)
    if rows % 16 or out % 16:
        return f"experts of {rows} and {out} rows do not fill blocks of 16"
    if columns % 2 or width % 2:
        return f"experts of {columns} and {width} columns have an odd width"
    return _function(op, types)


def _latents(op: Op, types: Types) -> str | None:
    kept: Any = types["latents"]
    if kept.dtype or kept.every != 1:
        return f"its state {kept} is not of every token in the model's dtype"
    given = dict(op.attributes())
    if int(kept.dims[0]) % 2:
        return f"latents of {kept.dims[0]} channels are odd"
    both = types.get("bias") and types.get("sinks")
    return "a bias of keys counts beside sinks" if both and given else None


def _ring(op: Op, types: Types) -> str | None:
    kept: Any = types["state"]
    if kept.dtype:
        return f"its state {kept} has a dtype of its own"
    return _function(op, types)


def _table(frequencies: str, *attributes: str) -> Kernel:
    arguments = ", ".join(f"{{{name}}}" for name in attributes)
    return Kernel(
        "rope",
        ("factor",),
        name="rope_table",
        unfit=_positions,
        constant=(f"{frequencies}({arguments}, CPU)", "frequencies"),
    )


_NORM = ("eps", "weight_in", "unit_offset")

KERNELS: Mapping[str, Kernel] = {
    "embedding": Kernel("product", unfit=_even),
    "linear": Kernel("product", ("bias",), _even),
    "quantized_linear": Kernel("codes", ("zeros", "bias", "bits"), _codes),
    "quantized_embedding": Kernel("codes", ("bits",), _codes),
    "rms_norm": Kernel("norms", _NORM),
    "rms_normalize": Kernel("norms", ("eps",)),
    "layer_norm": Kernel("norms", ("bias", "eps", "unit_offset")),
    "layer_normalize": Kernel("norms", ("eps",)),
    "rope": Kernel("rope", ("style", "sections", "first", "reverse")),
    "rope_table": _table("default_frequencies", "dim", "theta"),
    "rope_table_linear": _table("linear_frequencies", "dim", "theta", "factor"),
    "rope_table_llama3": _table(
        "llama3_frequencies",
        *("dim", "theta", "factor", "low_freq_factor", "high_freq_factor"),
        "original_max_positions",
    ),
    "rope_table_yarn": _table(
        "yarn_frequencies",
        *("dim", "theta", "factor", "beta_fast", "beta_slow"),
        *("original_max_positions", "truncate"),
    ),
    "rope_table_proportional": _table(
        "proportional_frequencies", "dim", "theta", "turning", "factor"
    ),
    "kv_write": Kernel("attention", unfit=_kept),
    "attention": Kernel(
        "attention",
        (
            *("prefix", "slopes", "sinks", "scale"),
            *("window", "learned", "chunk", "softcap"),
        ),
        _attention,
    ),
    "moe_router": Kernel(
        "router",
        (
            *("bias", "correction", "top_k", "softcap", "score", "after"),
            *("groups", "top_groups", "group_score", "ineligible", "renormalise"),
            *("least_sum", "sum_eps", "scale"),
        ),
    ),
    "moe_experts": Kernel(
        "experts",
        (
            *("gate_up_bias", "down_bias", "fn", "alpha", "limit"),
            *("weigh", "gated"),
        ),
        _experts,
    ),
    "scale_experts": Kernel("experts"),
    "latent_write": Kernel("latent", unfit=_latents),
    "latent_attention": Kernel(
        "latent", ("bias", "sinks", "scale", "window"), _latents
    ),
    "short_conv": Kernel("recurrent", ("bias", "fn"), _ring),
    "scan": Kernel("recurrent", ("beta", "scale")),
    "selective_scan": Kernel("recurrent"),
    "l2_normalize": Kernel("recurrent", ("eps",)),
    "step_size": Kernel("recurrent", ("bias", "low", "high")),
    "decay": Kernel("recurrent"),
    "bounded_decay": Kernel("recurrent", ("bias", "floor")),
    "sigmoid": Kernel("recurrent", ("factor",)),
    "scale_each": Kernel("recurrent"),
    "add_skip": Kernel("recurrent"),
    "gated_norm": Kernel(
        "recurrent", ("eps", "fn", "order", "groups", "weight_in"), _function
    ),
    "add": Kernel("elementwise"),
    "mul": Kernel("elementwise"),
    "activation": Kernel("elementwise", ("fn",), _function),
    "act_mul": Kernel("elementwise", ("fn",), _function),
    "scale": Kernel("elementwise", ("factor", "rounded")),
    "scale_by": Kernel("elementwise"),
    "scale_heads": Kernel("elementwise"),
    "add_bias": Kernel("elementwise"),
    "clamp": Kernel("elementwise", ("limit",)),
    "soft_cap": Kernel("elementwise", ("cap",)),
    "gate": Kernel("elementwise", ("fn",), _function),
    "concat": Kernel("elementwise"),
    "zeros_like": Kernel("elementwise"),
}

VIEWS = ("split", "heads")
"""Ops that only name other places of the same memory."""

CONSTANTS: Mapping[str, str] = {
    "alibi_slopes": "alibi_slopes(ZERO, heads={heads}, max_bias={max_bias},"
    " scale={scale})",
}
"""Ops whose result is the same in every call, computed once at load time."""

FACTOR = {"rope_table_yarn": "attention_factor"}
"""The attribute of a table that its cosines are multiplied by."""


def unfit(program: Program, graph: Graph, op: Op) -> str | None:
    """Say why an op has no kernel in C++, or None."""
    if op.mnemonic in VIEWS or op.mnemonic in CONSTANTS:
        return None
    kernel = KERNELS.get(op.mnemonic)
    if kernel is None:
        return f"{op.mnemonic}: no C++ is written for it"
    unknown = sorted(set(_given(op)) - set(kernel.options))
    if unknown and kernel.constant is None:
        return f"{op.mnemonic}: its C++ takes no {', '.join(unknown)}"
    for name in (*op.values, *op.outs):
        kind = graph.types[name]
        if not isinstance(kind, TensorType):
            continue
        if not is_rows(kind) and name not in known_values(program, graph):
            return f"{op.mnemonic}: %{name} {kind} is not a row of numbers a token"
    # States are among the types, too; each `unfit` looks at operands that are tensors.
    reason = kernel.unfit(op, program.operand_types(graph, op))  # type: ignore[arg-type]
    return f"{op.mnemonic}: {reason}" if reason else None


def _given(op: Op) -> Iterator[str]:
    """Yield the options of a use: optional operands that are there, attributes."""
    required = op.operand_fields()
    yield from (field for field, _, _ in op.operands() if not required[field][1])
    yield from (name for name, value in op.attributes().items() if value is not None)


def is_rows(kind: object) -> bool:
    """Tell whether a value has a row of numbers for each token: floats, or the numbers
    of experts, which are kept as floats."""
    return (
        isinstance(kind, TensorType)
        and kind.dims[:2] == ("B", "T")
        and (
            kind.dtype in ("f32", "f16", "bf16")
            or (kind.dtype == "i64" and len(kind.dims) > 2)
        )
        and all(isinstance(dim, int) for dim in kind.dims[2:])
    )


def known_values(program: Program, graph: Graph) -> set[str]:
    """Name the values that are no rows and that kernels find in the call."""
    constant = {
        name
        for each in program.graphs
        for op in each.ops
        if op.mnemonic in CONSTANTS
        for name in op.outs
    }
    return constant | {"ids", "pos", "prefix"}
