"""Calls of the launchers of recurrent ops: a token and a prompt, padded or not."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from glmc.backends.triton.sketch import FLOAT32

if TYPE_CHECKING:
    from glmc.backends.triton.calls import Call


def _short_conv(call: "Call") -> None:
    """Call the launcher for a token and for a prompt, padded or not."""
    channels, width = call.use.sizes("weight")
    more = call.given(bias=call.make(channels))
    for tokens in call.sizes.tokens:
        for padded in call.sizes.padded:
            state = call.row(channels, width, padded=padded)
            x = call.make(call.sizes.batch, tokens, channels)
            call(x, call.parameter("weight"), state, **more)


def _scan(call: "Call") -> None:
    """Call the launcher for a token and for a prompt, padded or not."""
    use = call.use
    heads, width, _ = use.sizes("state")
    groups = use.size("k", 2)
    for tokens in call.sizes.tokens:
        keys = [call.make(call.sizes.batch, tokens, groups, width) for _ in "qk"]
        v = call.make(call.sizes.batch, tokens, heads, use.sizes("state")[2])
        rest = (width,) if len(use.shapes["g"]) == 4 else ()
        g = call.make(call.sizes.batch, tokens, heads, *rest, dtype=FLOAT32)
        more = call.given(beta=call.make(call.sizes.batch, tokens, heads))
        for padded in call.sizes.padded:
            state = call.row(*use.sizes("state"), padded=padded, dtype=FLOAT32)
            call(*keys, v, g, state, **more)


def _memory_scan(call: "Call") -> None:
    """Call the launcher for a token and for a prompt, padded or not."""
    heads, width, more = call.use.sizes("state")
    for tokens in call.sizes.tokens:
        rows = (call.sizes.batch, tokens, heads)
        wide = [call.make(*rows, n) for n in (width, width, more - 1)]
        gates = [call.make(*rows) for _ in "if"]
        for padded in call.sizes.padded:
            kept = [
                call.row(heads, *sizes, padded=padded, dtype=FLOAT32)
                for sizes in ((width, more), ())
            ]
            call(*wide, *gates, *kept)


def _channels(call: "Call") -> None:
    """Call the launcher of a scan of channels for a token and for a prompt."""
    use = call.use
    values = {"selective_scan": "v step k q", "lru_scan": "x i r", "wkv_scan": "k v"}
    weights = {"selective_scan": "a_log skip", "lru_scan": "rate"}
    vectors = [
        call.parameter(name, FLOAT32)
        for name in weights.get(use.name, "rate first").split()
    ]
    names = values[use.name].split()
    bias = call.given(bias=call.make(use.size(names[0]), dtype=FLOAT32))
    for tokens in call.sizes.tokens:
        wide = [call.make(call.sizes.batch, tokens, use.size(n)) for n in names]
        more = {**bias, **call.given(opened=wide[0])}
        for padded in call.sizes.padded:
            state = call.row(*use.sizes("state"), padded=padded, dtype=FLOAT32)
            call(*wide, *vectors, state, **more)


def _gated_norm(call: "Call") -> None:
    x = call.tokens(call.use.size("x"))
    call(x, x, call.parameter("weight"))


def _mix(call: "Call") -> None:
    """Call the launcher for a token and for a prompt, padded or not."""
    use = call.use
    convs = [call.parameter(f"conv_{name}") for name in "qkv"]
    heads, _, width = use.sizes("state")
    biases = {f"bias_{n}": call.make(len(w)) for n, w in zip("qkv", convs, strict=True)}
    shared = call.given(
        **biases,
        dt_bias=call.make(use.size("step"), dtype=FLOAT32),
        skip=call.make(heads, dtype=FLOAT32),
        norm=call.make(width),
    )
    for tokens in call.sizes.tokens:
        wide = [
            call.make(call.sizes.batch, tokens, use.size(name))
            for name in ("q", "k", "v", "step")
        ]
        more = call.given(beta=call.make(call.sizes.batch, tokens, heads), z=wide[2])
        for padded in call.sizes.padded:
            kept = [call.row(*w.shape, padded=padded) for w in convs]
            state = call.row(*use.sizes("state"), padded=padded, dtype=FLOAT32)
            a_log = call.make(heads, dtype=FLOAT32)
            call(*wide, *convs, a_log, *kept, state, **shared, **more)


def _block_linear(call: "Call") -> None:
    parts, read, width = call.use.sizes("weight")
    bias = call.given(bias=call.make(parts, width))
    call(call.tokens(parts * read), call.parameter("weight"), **bias)


def _token_shift(call: "Call") -> None:
    (width,) = call.use.sizes("state")
    for tokens in call.sizes.tokens:
        for padded in call.sizes.padded:
            state = call.row(width, padded=padded)
            call(call.make(call.sizes.batch, tokens, width), state)


def _steady_decay(call: "Call") -> None:
    factors = call.given(factors=call.make(1, 1, 1, dtype=FLOAT32))
    call(call.tokens(call.use.size("x")), **factors)


CALLS: "Mapping[str, Callable[[Call], None]]" = {
    "short_conv": _short_conv,
    "gated_norm": _gated_norm,
    "block_linear": _block_linear,
    "token_shift": _token_shift,
    "steady_decay": _steady_decay,
    "scan": _scan,
    "memory_scan": _memory_scan,
    **dict.fromkeys(("selective_scan", "lru_scan", "wkv_scan"), _channels),
    "mix": _mix,
}
"""Op -> how its launcher is called."""
