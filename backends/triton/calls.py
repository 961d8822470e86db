"""Calls of an op's launcher: one for every way in which a model makes it launch.

A prompt and a token, with left padding and without; few rows and many. Sizes are the
model's; how many tokens there are is chosen so that all branches of a launcher run. It
is odd: what is a multiple of 16 then is so for any number of tokens.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from glmc.backends.triton import tiles
from glmc.backends.triton.sketch import (
    BOOL,
    FLOAT8,
    FLOAT32,
    INT8,
    INT32,
    INT64,
    Dtype,
    Sketch,
)
from glmc.backends.triton.uses import OpUse

Launcher = Callable[..., object]
TOKENS = 3
CAPACITY = TOKENS + 5
# Rows of x for which a product launches each of its kernels.
ROWS = (1, 5, 17)


@dataclass(frozen=True)
class Call:
    """A call of a launcher, as one op of a model makes it.

    dtype   of weights and activations
    cache   "int8" or "fp8_e4m3" where keys and values have a dtype of their own
    """

    launcher: Launcher
    use: OpUse
    dtype: Dtype
    cache: str

    def __call__(self, *operands: object, **more: object) -> None:
        self.launcher(*operands, **self.use.attrs, **more)

    def make(self, *shape: int, dtype: Dtype | None = None) -> Sketch:
        """Return a contiguous tensor."""
        return Sketch(shape, dtype or self.dtype)

    def parameter(self, name: str, dtype: Dtype | None = None) -> Sketch:
        """Return an operand whose sizes are all known."""
        return self.make(*self.use.sizes(name), dtype=dtype)

    def given(self, **sketches: Sketch) -> dict[str, Sketch]:
        """Return the optional operands among these that the op has."""
        there = self.use.operands
        return {name: x for name, x in sketches.items() if name in there}

    def latents(self, width: int, padded: bool) -> Any:
        """Return the state of a layer that caches latents."""
        return self._kept(padded, slots=self.make(2, CAPACITY, width))

    def state(self, heads: int, widths: Iterable[int], padded: bool) -> Any:
        """Return the state of a layer that caches keys and values."""
        dtype = {"int8": INT8, "fp8_e4m3": FLOAT8}.get(self.cache, self.dtype)
        keys, values = (self.make(2, heads, CAPACITY, n, dtype=dtype) for n in widths)
        scales = self.make(2, heads, CAPACITY, dtype=FLOAT32) if dtype is INT8 else None
        kept = {"keys": keys, "values": values}
        return self._kept(padded, **kept, key_scales=scales, value_scales=scales)

    def _kept(self, padded: bool, **tensors: Sketch | None) -> Any:
        """Return a state into which some tokens were already read."""
        return SimpleNamespace(
            **tensors,
            past=TOKENS + 1,
            position=self.make(1, dtype=INT32),
            start=self.make(2, dtype=INT32) if padded else None,
            counters=lambda count: self.make(count, dtype=INT32),
        )


def run(launcher: Launcher, use: OpUse, dtype: Dtype, cache: str = "") -> None:
    """Call the launcher of an op in every way in which a model may."""
    call = Call(launcher, use, dtype, cache)
    _CALLS.get(use.name, _product if "linear" in use.name else _rows)(call)


def _rows(call: Call) -> None:
    """Call the launcher of a norm, or of an elementwise op."""
    use = call.use
    if "weight" not in use.shapes:
        (width,) = {shape[-1] for shape in use.shapes.values()}
        assert isinstance(width, int)
        call(call.make(2, TOKENS, width))
        return
    width = use.size("weight")
    weight, x = call.make(width), call.make(2, TOKENS, width)
    inputs = [x, x] if use.name.startswith("add_") else [x]
    call(*inputs, weight, **call.given(bias=weight))


def _product(call: Call) -> None:
    """Call the launcher of a product with one row, with a few and with many."""
    use = call.use
    outputs, width = use.size("weight", 0), _width(use)
    weight = call.parameter("weight", INT8 if "bits" in use.attrs else None)
    norm = call.make(width)
    options = call.given(norm_bias=norm, bias=call.make(outputs))
    if "scale" in use.shapes and "bits" in use.attrs:
        scale = call.parameter("scale")
        options |= call.given(zeros=call.parameter("scale", INT8))
        options |= {} if use.name.startswith("quantized") else {"scale": scale}
    for rows in ROWS:
        operands = [call.make(1, rows, width)]
        operands += [norm, weight] if "norm" in use.name else [weight]
        operands += [scale] if use.name.startswith("quantized") else []
        if use.name == "linear_add":
            operands.append(call.make(1, rows, outputs))
        call(*operands, **options)


def _width(use: OpUse) -> int:
    """Return the number of columns of a weight, whatever it is stored as."""
    stored = use.size("weight")
    return stored * 8 // use.whole("bits") if "bits" in use.attrs else stored


def _attention(call: Call) -> None:
    use = call.use
    heads, *widths = (use.size("kv", dim) for dim in range(3))
    for tokens in (1, TOKENS):
        for padded in (False, True):
            q = call.make(2, tokens, use.size("q", 2), widths[0])
            call(q, call.state(heads, widths, padded), **_beside(call, q.shape[2]))


def _qkv_attention(call: Call) -> None:
    use = call.use
    heads, width = use.whole("heads"), use.whole("head_dim")
    kv_heads = use.whole("kv_heads")
    norm = call.make(width)
    for tokens in (1, TOKENS):
        given = _beside(call, heads) | call.given(q_norm=norm, k_norm=norm)
        if "cos" in use.operands:
            table = call.make(2, tokens, use.size("cos"), dtype=FLOAT32)
            given |= {"cos": table, "sin": table}
        for padded in (False, True):
            qkv = call.make(2, tokens, (heads + 2 * kv_heads) * width)
            call(qkv, call.state(kv_heads, (width, width), padded), **given)


def _beside(call: Call, heads: int) -> dict[str, Sketch]:
    """Return the optional operands of attention."""
    return call.given(
        prefix=call.make(2, dtype=INT32),
        slopes=call.make(heads, dtype=FLOAT32),
        sinks=call.make(heads),
    )


def _full_attention(call: Call) -> None:
    """Call the launcher with q, k and v in the strides of views of one product, or of
    several."""
    sizes = {name: call.use.shapes[name][2:] for name in ("q", "k", "v")}
    row = math.gcd(*(_whole(heads) * _whole(width) for heads, width in sizes.values()))
    states = [
        Sketch(
            (2, TOKENS, _whole(heads), _whole(width)),
            call.dtype,
            (TOKENS * row, row, _whole(width), 1),
        )
        for heads, width in sizes.values()
    ]
    for mask in (None, call.make(2, TOKENS, dtype=BOOL)):
        call(*states, mask)


def _whole(size: int | str) -> int:
    assert isinstance(size, int)
    return size


def _elementwise(call: Call) -> None:
    """Call the launcher with each operand in its shape, of few tokens."""
    names = [name for name in ("x", "y", "g") if name in call.use.shapes]
    sizes = [call.use.shapes[name][2:] for name in names]
    call(*(call.make(2, TOKENS, *map(_whole, rest)) for rest in sizes))


def _kv_write(call: Call) -> None:
    heads, *widths = (call.use.size("kv", dim) for dim in range(3))
    state = call.state(heads, widths, False)
    call(state, *(call.make(2, TOKENS, heads, width) for width in widths))


def _rope(call: Call) -> None:
    heads, width = (call.use.size("x", dim) for dim in (2, 3))
    table = call.make(2, TOKENS, call.use.size("cos"), dtype=FLOAT32)
    call(call.make(2, TOKENS, heads, width), table, table)


def _latent_write(call: Call) -> None:
    rank, turned = call.use.size("latent"), call.use.size("shared")
    state = call.latents(rank + turned, False)
    latent, shared = (2, TOKENS, rank), (2, TOKENS, 1, turned)
    call(state, call.make(*latent), call.make(*shared))


def _latent_attention(call: Call) -> None:
    """Call the launcher for a prompt and a token; with all slots, or with those
    selected."""
    use = call.use
    heads, width = use.size("q", 2), use.size("q", 3)
    for tokens in (1, TOKENS):
        chosen = [call.make(2, tokens, n, dtype=INT64) for n in (0, 2)]
        given = [call.given(selection=selection) for selection in chosen]
        for padded in (False, True):
            for more in given:
                state = call.latents(use.size("latents"), padded)
                q = call.make(2, tokens, heads, width)
                call(q, state, call.parameter("kv_b"), **more)


def _moe_experts(call: Call) -> None:
    """Call the launcher with rows one by one, with blocks of few and of many, and with
    more rows than one program sorts."""
    use = call.use
    count, width, _ = use.sizes("down")
    top_k = use.size("experts")
    sorted_by_one = (max(top_k, count // 2) // top_k + 1, tiles.SORTED // top_k)
    gate_up, down = call.parameter("gate_up"), call.parameter("down")
    biases = call.given(
        gate_up_bias=call.make(*gate_up.shape[:2]),
        down_bias=call.make(*down.shape[:2]),
    )
    for tokens in (1, *sorted_by_one, count, 5 * count, 20 * count):
        experts = call.make(1, tokens, top_k, dtype=INT64)
        weights = call.make(*experts.shape, dtype=FLOAT32)
        x = call.make(1, tokens, width)
        call(x, experts, weights, gate_up, down, **biases)


def _moe_router(call: Call) -> None:
    weight = call.parameter("weight", FLOAT32)
    vector = call.make(len(weight), dtype=FLOAT32)
    vectors = call.given(bias=vector, correction=vector)
    call(call.make(1, 1, call.use.size("weight")), weight, **vectors)


_CALLS: Mapping[str, Callable[[Call], None]] = {
    "attention": _attention,
    "qkv_attention": _qkv_attention,
    "full_attention": _full_attention,
    **dict.fromkeys(("add", "mul", "scale", "gate", "rms_normalize"), _elementwise),
    "rope": _rope,
    "kv_write": _kv_write,
    "latent_write": _latent_write,
    "latent_attention": _latent_attention,
    "moe_experts": _moe_experts,
    "moe_router": _moe_router,
}
