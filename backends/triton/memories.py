"""Kernels of scans whose gates are exponential."""

import json
from collections.abc import Iterator

from glmc.backends.triton import tiles
from glmc.backends.triton.forms import Form
from glmc.backends.triton.launch import Launch, constant, count, pointer, tile
from glmc.backends.triton.model import Model, Part, part

_STATE = pointer(
    "state",
    "[B, HEADS, KEY, VALUE + 1]",
    "relative to exp(most); the last column sums keys",
    source="state.rows",
)
_MADE = pointer("made", "[B, T, HEADS, 3]", "left, gained, divisor")
_KEYS = tuple(pointer(name, "[B, T, HEADS, KEY]") for name in "qk")
_SIZES = (
    count("T"),
    constant("HEADS", "H"),
    constant("KEY", "K", "channels of a key"),
    constant("VALUE", "V", "channels of a value"),
    constant("K_BLOCK", "max(16, triton.next_power_of_2(K))"),
    constant("SCALE", "scale"),
)


def parts(form: Form, model: Model) -> Iterator[Part]:
    """Yield the kernels of such a scan, and its launcher."""
    sizes = [use.sizes("state")[1:] for use in model.of(form.op)]
    k_dim, v_dim = (max(size) for size in zip(*sizes, strict=True))
    yield part("mix_steps")
    found = json.dumps(dict(tiles.mix_token(k_dim, v_dim - 1)))
    yield part("memory_tiles", tile=found)
    name = model.name(form)
    gates = Launch(
        f"{name}_gates_kernel",
        "(H, B)",
        (
            *_KEYS,
            pointer("i", "[B, T, HEADS]", "logarithms of what a token gains"),
            pointer("f", "[B, T, HEADS]", "of the sigmoid of it so much is left"),
            _STATE,
            pointer("most", "[B, HEADS]", source="most.rows"),
            pointer("position", "[1]", "slots filled before", source="state.position"),
            pointer("start", "[B] or None", "first real slot of a row", source="start"),
            _MADE,
            *_SIZES,
            constant("EPS", "eps"),
        ),
        ("num_warps=4",),
    )
    columns = Launch(
        f"{name}_columns_kernel",
        '(H, B, triton.cdiv(V, tile["V_BLOCK"]))',
        (
            *_KEYS,
            pointer("v", "[B, T, HEADS, VALUE]"),
            _MADE,
            _STATE,
            pointer("out", "[B, T, HEADS, VALUE]"),
            *_SIZES,
            *tile("V_BLOCK"),
        ),
        ("**tile",),
    )
    head = model.head(form.op, model.launcher(form))
    yield part("memory_scan", head=head, gates=gates, columns=columns)
