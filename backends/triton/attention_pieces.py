"""The arguments and lines of code that kernels of attention share."""

import json

from glmc.backends import layout
from glmc.backends.triton import tiles
from glmc.backends.triton.attention_heads import CACHED
from glmc.backends.triton.forms import CHOICES, Form
from glmc.backends.triton.launch import Argument, constant, pointer
from glmc.backends.triton.lines import Line, Lines, call
from glmc.backends.triton.model import Model, Part, part

ATTENDED = ("slopes", "softcap", "learned")
POINTERS = ("prefix", "slopes", "sinks")
NUMBERS = {
    "window": "WINDOW",
    "learned": "LEARNED",
    "chunk": "CHUNK",
    "softcap": "CAP",
}


def lies(name: str, *dims: str) -> str:
    return f"lies in strides {', '.join(f'{name}_{dim}' for dim in ('batch', *dims))}"


ROUNDED = "max(16, triton.next_power_of_2({}))"
HEADS = (
    constant("HEADS", "H"),
    constant("KV_HEADS", "K"),
    constant("K_DIM", "D"),
    constant("V_DIM", "V"),
    constant("K_BLOCK", ROUNDED.format("D"), "K_DIM rounded up to a power of two"),
    constant("V_BLOCK", ROUNDED.format("V"), "V_DIM rounded up to a power of two"),
)
CODES = (
    pointer(
        "key_scales",
        "[B, KV_HEADS, capacity]",
        "of int8 codes, or None",
        source="kv.key_scales",
    ),
    pointer(
        "value_scales",
        "[B, KV_HEADS, capacity]",
        "of int8 codes, or None",
        source="kv.value_scales",
    ),
)
START = pointer(
    "start",
    "[B] or None",
    "first real slot of a row that is padded on the left",
    source="kv.start",
)
POSITION = pointer(
    "position", "[1]", "slots that were filled before this call", source="kv.position"
)


def kept(k: str, v: str) -> tuple[Argument, ...]:
    """Return the arguments for the cached keys and values, in the cache's dtype."""
    return (
        pointer("keys", f"[B, KV_HEADS, capacity, {k}]", source="_codes(kv.keys)"),
        pointer("values", f"[B, KV_HEADS, capacity, {v}]", source="_codes(kv.values)"),
        *CODES,
    )


def cache() -> Part:
    """Return the functions by which kernels read the cache, and the targets that do so
    by tensor descriptors."""
    rows = []
    for size, targets in tiles.DESCRIBED.items():
        names = [json.dumps(name) for name in targets]
        rows.append(f"{size}: {layout.tuple_of(names, 4) if names else '()'},")
    return part("kv_cache", described=rows)


def pointers(form: Form) -> list[str]:
    return [name for name in POINTERS if form[name]]


def vectors(form: Form) -> list[str]:
    """Name the optional operands that hold one number for each head. Decode takes no
    others: a prefix lies before any token that is decoded."""
    return [name for name in pointers(form) if name != "prefix"]


def numbers(form: Form) -> list[str]:
    return ["scale", *(name for name in NUMBERS if form[name])]


def constants(form: Form) -> list[Argument]:
    found = [constant("SCALE", "scale")]
    return found + [
        constant(symbol, name) for name, symbol in NUMBERS.items() if form[name]
    ]


def vector_arguments(form: Form) -> list[Argument]:
    said = {"slopes": "see _slope", "sinks": "see _begun"}
    return [pointer(name, "[HEADS]", said[name]) for name in vectors(form)]


def defined(name: str, parameters: list[str]) -> str:
    return layout.bracketed(f"def {name}(", parameters, "):", 0)


def scored(form: Form) -> list[str]:
    """Name the constants that the scores depend on."""
    return ["SCALE", *(["CAP"] if form["softcap"] else [])]


def score(form: Form, model: Model, target: str, products: str, apart: str) -> Line:
    """Emit a call of the function of :func:`_scores`."""
    name = model.part("_scores", form, "slopes", "softcap", ops=CACHED)
    sloped = [apart, "slope"] if form["slopes"] else []
    return call(target, name, [products, *sloped, *scored(form)])


def begin(form: Form, head: str, there: str, first: str, block: str) -> Lines:
    """Emit the start of a program: the slope, and the peak, total and context of the
    online softmax."""
    lines: list[Line] = []
    if form["slopes"]:
        lines.append(f"slope = _slope(slopes, {head}, {there})")
    target = "peak, total, context"
    if form["sinks"]:
        lines.append(call(target, "_begun_sinks", [head, first, "sinks", block]))
    else:
        lines.append(call(target, "_begun", [head, block]))
    return lines


DIMS = ("batch", "token", "head")


def ranged(form: Form) -> Lines:
    """Emit the first slot that a token of decode attends to."""
    lines = ["real = first", "first = 0"] if form["learned"] else []
    if form["chunk"]:
        lines.append("first += tl.maximum(past - first, 0) // CHUNK * CHUNK")
    if form["window"]:
        lines.append("first = tl.maximum(first, past - WINDOW + 1)")
    return lines


def attended(form: Form) -> list[str]:
    """Name the arguments that a pass over a part of the cache takes in this form
    only."""
    sloped = ["past", "slope"] if form["slopes"] else []
    learned = ["real", "LEARNED"] if form["learned"] else []
    return [*sloped, *learned, *scored(form)]


def joined(width: str, of: str, heads: str) -> tuple[Argument, ...]:
    """Return the arguments for the context, and for the buffers of its parts until they
    are joined."""
    rows = 'tile["ROWS"]'
    return (
        pointer("out", f"[B, 1, HEADS, {width}]"),
        pointer(
            "parts", "", "see _join", source=f"*_workspace({of}, kv, {heads}, {rows})"
        ),
        pointer("weights", "", "see _join", source=""),
        pointer("arrived", "", "see _join", source=""),
    )


PARTS = (
    constant("SPLITS", meaning="parts of the cache that are attended to side by side"),
    constant("FAN", meaning="how many of them are joined at a time"),
)


def named(base: str, form: Form, model: Model) -> str:
    """Return the name of a kernel that depends on all choices of its op."""
    return model.part(base, form, *CHOICES[form.op], ops=[form.op])
