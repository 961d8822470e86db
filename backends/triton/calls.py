"""Calls of an op's launcher: one for every way in which a model makes it launch.

A prompt and a token, with left padding and without; few rows and many. Sizes are the
model's; how many tokens there are is chosen so that all branches of a launcher run, or
given. The chosen number is odd: what is a multiple of 16 then is so for any number.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from glmc.backends.triton import elementwise, recurrent_calls, tiles
from glmc.backends.triton.sketch import (
    BOOL,
    FLOAT8,
    FLOAT32,
    INT8,
    INT32,
    INT64,
    UINT8,
    Dtype,
    Sketch,
)
from glmc.backends.triton.uses import OpUse

Launcher = Callable[..., object]


@dataclass(frozen=True)
class Sizes:
    """The sizes of the calls that an op is launched with.

    batch    rows of the call
    tokens   of a row: a call for each
    padded   whether rows begin with padding: a call for each
    past     tokens that were read before
    rows     rows of x that a product is given: a call for each
    experts  rows of x that experts are given: a call for each; None for those with
             which every branch of the launcher runs
    """

    batch: int
    tokens: tuple[int, ...]
    padded: tuple[bool, ...]
    past: int
    rows: tuple[int, ...]
    experts: tuple[int, ...] | None

    @property
    def most(self) -> int:
        """The tokens of a row in the longest call."""
        return max(self.tokens)

    @property
    def capacity(self) -> int:
        """The slots of a cache that holds the longest call."""
        return self.past + self.most + 1


EVERY = Sizes(2, (1, 3), (False, True), 4, (1, 5, 17), None)
"""Sizes with which every branch of a launcher runs."""


def sizes_of(batch: int, tokens: int, past: int) -> Sizes:
    """Return the sizes of one call of a model."""
    rows = (batch * tokens,)
    return Sizes(batch, (tokens,), (False,), past, rows, rows)


@dataclass(frozen=True)
class Call:
    """A call of a launcher, as one op of a model makes it.

    dtype   of weights and activations
    cache   "int8" or "fp8_e4m3" where keys and values have a dtype of their own
    sizes   of its calls
    """

    launcher: Launcher
    use: OpUse
    dtype: Dtype
    cache: str
    sizes: Sizes

    def __call__(self, *operands: object, **more: object) -> None:
        self.launcher(*operands, **self.use.attrs, **more)

    def make(self, *shape: int, dtype: Dtype | None = None) -> Sketch:
        """Return a contiguous tensor."""
        return Sketch(shape, dtype or self.dtype)

    def tokens(self, *rest: int, dtype: Dtype | None = None) -> Sketch:
        """Return a tensor with a place for each token of the longest call."""
        return self.make(self.sizes.batch, self.sizes.most, *rest, dtype=dtype)

    def parameter(self, name: str, dtype: Dtype | None = None) -> Sketch:
        """Return an operand whose sizes are all known."""
        return self.make(*self.use.sizes(name), dtype=dtype)

    def given(self, **sketches: Sketch) -> dict[str, Sketch]:
        """Return the optional operands among these that the op has."""
        there = self.use.operands
        return {name: x for name, x in sketches.items() if name in there}

    def latents(self, width: int, padded: bool) -> Any:
        """Return the state of a layer that caches latents."""
        slots = self.make(self.sizes.batch, self.sizes.capacity, width)
        return self._kept(padded, slots=slots)

    def row(self, *sizes: int, padded: bool, dtype: Dtype | None = None) -> Any:
        """Return a state that holds one tensor for each row."""
        rows = self.make(self.sizes.batch, *sizes, dtype=dtype)
        return self._kept(padded, rows=rows)

    def state(self, heads: int, widths: Iterable[int], padded: bool) -> Any:
        """Return the state of a layer that caches keys and values."""
        dtype = {"int8": INT8, "fp8_e4m3": FLOAT8}.get(self.cache, self.dtype)
        slots = (self.sizes.batch, heads, self.sizes.capacity)
        keys, values = (self.make(*slots, width, dtype=dtype) for width in widths)
        scales = self.make(*slots, dtype=FLOAT32) if dtype is INT8 else None
        kept = {"keys": keys, "values": values}
        return self._kept(padded, **kept, key_scales=scales, value_scales=scales)

    def _kept(self, padded: bool, **tensors: Sketch | None) -> Any:
        """Return a state into which some tokens were already read."""
        return SimpleNamespace(
            **tensors,
            past=self.sizes.past,
            position=self.make(1, dtype=INT32),
            start=self.make(self.sizes.batch, dtype=INT32) if padded else None,
            counters=lambda count: self.make(count, dtype=INT32),
        )


def run(
    launcher: Launcher,
    use: OpUse,
    dtype: Dtype,
    cache: str = "",
    sizes: Sizes = EVERY,
) -> None:
    """Call the launcher of an op in every way in which a model may, or in the calls of
    some ``sizes``."""
    call = Call(launcher, use, dtype, cache, sizes)
    _CALLS.get(use.name, _product if "linear" in use.name else _rows)(call)


def _rows(call: Call) -> None:
    """Call the launcher of a norm, or of an elementwise op."""
    use = call.use
    if "weight" not in use.shapes:
        (width,) = {shape[-1] for shape in use.shapes.values()}
        assert isinstance(width, int)
        call(call.tokens(width))
        return
    width = use.size("weight")
    weight, x = call.make(width), call.tokens(width)
    inputs = [x, x] if "add_" in use.name else [x]
    call(*inputs, weight, **call.given(bias=weight))


def _product(call: Call) -> None:
    """Call the launcher of a product with one row, with a few and with many."""
    use = call.use
    outputs, width = use.size("weight", 0), _width(use)
    weight = call.parameter("weight", INT8 if "bits" in use.attrs else None)
    norm = call.make(width)
    options = call.given(norm_bias=norm, bias=call.make(outputs))
    if "scale" in use.shapes and "bits" in use.attrs:
        scale = call.parameter("scale", _SCALES.get(use.attrs.get("floats")))
        options |= call.given(zeros=call.parameter("scale", INT8))
        options |= call.given(factor=call.make(outputs, dtype=FLOAT32))
        options |= {} if use.name.startswith("quantized") else {"scale": scale}
    for rows in call.sizes.rows:
        operands = [call.make(1, rows, width)]
        operands += [norm, weight] if "norm" in use.name else [weight]
        operands += [scale] if use.name.startswith("quantized") else []
        if use.name == "linear_add":
            operands.append(call.make(1, rows, outputs))
        call(*operands, **options)


_SCALES: Mapping[object, Dtype] = {"fp8": FLOAT32, "nvfp4": FLOAT8, "mx": UINT8}
"""The dtype of scales, where codes are small floats of a kind."""


def _width(use: OpUse) -> int:
    """Return the number of columns of a weight, whatever it is stored as."""
    stored = use.size("weight")
    return stored * 8 // use.whole("bits") if "bits" in use.attrs else stored


def _attention(call: Call) -> None:
    use = call.use
    heads, *widths = (use.size("kv", dim) for dim in range(3))
    for tokens in call.sizes.tokens:
        for padded in call.sizes.padded:
            q = call.make(call.sizes.batch, tokens, use.size("q", 2), widths[0])
            call(q, call.state(heads, widths, padded), **_beside(call, q.shape[2]))


def _qkv_attention(call: Call) -> None:
    use = call.use
    heads, width = use.whole("heads"), use.whole("head_dim")
    kv_heads = use.whole("kv_heads")
    norm = call.make(width)
    for tokens in call.sizes.tokens:
        given = _beside(call, heads) | call.given(q_norm=norm, k_norm=norm)
        if "cos" in use.operands:
            table = call.make(call.sizes.batch, tokens, use.size("cos"), dtype=FLOAT32)
            given |= {"cos": table, "sin": table}
        for padded in call.sizes.padded:
            qkv = call.make(call.sizes.batch, tokens, (heads + 2 * kv_heads) * width)
            call(qkv, call.state(kv_heads, (width, width), padded), **given)


def _beside(call: Call, heads: int) -> dict[str, Sketch]:
    """Return the optional operands of attention."""
    return call.given(
        prefix=call.make(call.sizes.batch, dtype=INT32),
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
            (call.sizes.batch, call.sizes.most, _whole(heads), _whole(width)),
            call.dtype,
            (call.sizes.most * row, row, _whole(width), 1),
        )
        for heads, width in sizes.values()
    ]
    for padded in call.sizes.padded:
        call(*states, call.tokens(dtype=BOOL) if padded else None)


def _whole(size: int | str) -> int:
    assert isinstance(size, int)
    return size


def _elementwise(call: Call) -> None:
    """Call the launcher with each operand in its shape, of few tokens."""
    shapes = call.use.shapes
    sizes = [shapes[name][2:] for name in ("x", "y", "g") if name in shapes]
    beside = [call.parameter("weight")] if "weight" in shapes else []
    if "factors" in shapes:
        beside = [call.make(*map(_whole, shapes["factors"]), dtype=FLOAT32)]
    call(*(call.tokens(*map(_whole, rest)) for rest in sizes), *beside)


def _kv_write(call: Call) -> None:
    heads, *widths = (call.use.size("kv", dim) for dim in range(3))
    state = call.state(heads, widths, False)
    call(state, *(call.tokens(heads, width) for width in widths))


def _rope(call: Call) -> None:
    heads, width = (call.use.size("x", dim) for dim in (2, 3))
    table = call.tokens(call.use.size("cos"), dtype=FLOAT32)
    call(call.tokens(heads, width), table, table)


def _latent_write(call: Call) -> None:
    rank, turned = call.use.size("latent"), call.use.size("shared")
    state = call.latents(rank + turned, False)
    call(state, call.tokens(rank), call.tokens(1, turned))


def _latent_attention(call: Call) -> None:
    """Call the launcher for a prompt and a token; with all slots, or with those
    selected."""
    use = call.use
    heads, width = use.size("q", 2), use.size("q", 3)
    for tokens in call.sizes.tokens:
        chosen = [call.make(call.sizes.batch, tokens, n, dtype=INT64) for n in (0, 2)]
        given = [call.given(selection=selection) for selection in chosen]
        given = given if "selection" in use.operands else [{}]
        for padded in call.sizes.padded:
            for more in given:
                state = call.latents(use.size("latents"), padded)
                q = call.make(call.sizes.batch, tokens, heads, width)
                call(q, state, call.parameter("kv_b"), **more)


def _moe_experts(call: Call) -> None:
    """Call the launcher with rows one by one, with blocks of few and of many, and with
    more rows than one program sorts."""
    _experts(call, [call.parameter("gate_up"), call.parameter("down")], {})


def _experts(call: Call, stacks: list[Sketch], more: Mapping[str, Sketch]) -> None:
    use = call.use
    count, width, _ = use.sizes("down")
    top_k = use.size("experts")
    sorted_by_one = (max(top_k, count // 2) // top_k + 1, tiles.SORTED // top_k)
    gate_up, down = stacks[:2]
    biases = call.given(
        gate_up_bias=call.make(*gate_up.shape[:2]),
        down_bias=call.make(*down.shape[:2]),
    )
    every = (1, *sorted_by_one, count, 5 * count, 20 * count)
    for tokens in call.sizes.experts or every:
        experts = call.make(1, tokens, top_k, dtype=INT64)
        weights = call.make(*experts.shape, dtype=FLOAT32)
        x = call.make(1, tokens, width)
        call(x, experts, weights, *stacks, **biases, **more)


def _quantized_experts(call: Call) -> None:
    """Call the launcher as that of experts which are floats."""
    scales = _SCALES.get(call.use.attrs.get("floats"))
    stacks = [call.parameter(name, INT8) for name in ("gate_up", "down")]
    stacks += [call.parameter(f"{name}_scale", scales) for name in ("gate_up", "down")]
    more = {
        f"{name}_{part}": call.parameter(f"{name}_{part}", dtype)
        for name in ("gate_up", "down")
        for part, dtype in (("zeros", INT8), ("factor", FLOAT32))
        if f"{name}_{part}" in call.use.operands
    }
    _experts(call, stacks, more)


def _moe_router(call: Call) -> None:
    weight = call.parameter("weight", FLOAT32)
    vector = call.make(len(weight), dtype=FLOAT32)
    vectors = call.given(bias=vector, correction=vector)
    call(call.make(1, 1, call.use.size("weight")), weight, **vectors)


_CALLS: Mapping[str, Callable[[Call], None]] = {
    "attention": _attention,
    "qkv_attention": _qkv_attention,
    "full_attention": _full_attention,
    **dict.fromkeys((*elementwise.OPS, "rms_normalize"), _elementwise),
    "rope": _rope,
    "kv_write": _kv_write,
    "latent_write": _latent_write,
    "latent_attention": _latent_attention,
    **recurrent_calls.CALLS,
    "moe_experts": _moe_experts,
    "quantized_experts": _quantized_experts,
    "moe_router": _moe_router,
}
