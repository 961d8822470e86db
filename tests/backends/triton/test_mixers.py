"""Kernels of mixers against the reference, interpreted: any lengths, shapes, calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.runtime.state import PerRow
from glmc.backends.torch import ops as reference
from support.kernels import examples, random
from support.mixing import HEAD, MIXERS, UNIT, Mixer, conv_use, emptied, gated_use

Interpreted = Callable[..., ModuleType]

TOLERANCE = {torch.float32: 1e-5, torch.float16: 8e-3}
CALLS = ((1, 1, 1, 1, 1, 1), (5, 1, 1), (16, 1), (17, 3), (33,))


def read(
    op: Callable[..., torch.Tensor],
    mixer: Mixer,
    calls: Sequence[int],
    dtype: torch.dtype,
    start: Sequence[int] | None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Reads tokens in some calls: the results, and the states after them."""
    cache = mixer.cache(2, dtype, start)
    states = dict(zip(("kept_q", "kept_k", "kept_v", "state"), cache.own, strict=True))
    shared, named = mixer.weights(dtype)
    made = []
    for seed, count in enumerate(calls):
        tokens, more = mixer.tokens(count, 2, dtype, 100 * seed)
        given = [*tokens, *shared, *states.values()]
        made.append(op(*given, **mixer.attrs, **named, **more))
        cache.length += count
    return torch.cat(made, 1), {name: s.rows for name, s in states.items()}


def close(got: Any, want: Any, dtype: torch.dtype) -> None:
    limit = TOLERANCE[dtype]
    torch.testing.assert_close(got, want, atol=4 * limit, rtol=4 * limit)


def in_chunks(module: ModuleType) -> ModuleType:
    """Read prompts of float32 in chunks too, as those of narrower elements are."""
    for name, table in vars(module).items():
        if name.startswith("MIX"):
            table[4] = (table[4][0], table[2][1])
    return module


@pytest.mark.parametrize("calls", CALLS)
@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer(interpreted: Interpreted, name: str, calls: tuple[int, ...]) -> None:
    """Prompts of less than a chunk and of more, tokens after them, padding."""
    mixer, dtype = MIXERS[name], torch.float32
    module = in_chunks(interpreted(mixer.use))
    for start in (None, [3, 0]) if calls[0] == 17 else (None,):
        got, after = read(module.mix, mixer, calls, dtype, start)
        want, kept = read(reference.mix, mixer, calls, dtype, start)
        real = torch.ones(got.shape[:2], dtype=torch.bool)
        if start:
            real[0, : start[0]] = False
        close(got[real], want[real], dtype)
        close(after, kept, dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", ["delta", "channels", "sum, a norm"])
def test_dtypes(interpreted: Interpreted, name: str, dtype: torch.dtype) -> None:
    """float32 is read token by token, float16 in chunks; states are float32."""
    mixer = MIXERS[name]
    got, after = read(interpreted(mixer.use).mix, mixer, (19, 1), dtype, None)
    want, kept = read(reference.mix, mixer, (19, 1), dtype, None)
    assert got.dtype == want.dtype
    close(got, want, dtype)
    assert after["state"].dtype == torch.float32
    close(after["state"], kept["state"], dtype)


WIDE = {
    "one program": Mixer(
        1, 1, 64, 100, given=("beta", "z", "norm"), attrs={**UNIT, **HEAD}
    ),
    "norm after it": Mixer(
        1, 1, 128, 128, given=("beta", "z", "norm"), attrs={**UNIT, **HEAD}
    ),
    "widest": Mixer(1, 1, 256, 256, given=("beta", "dt_bias"), attrs=UNIT),
    "channels": Mixer(1, 1, 192, 80, keyed=True, given=("beta",), attrs=UNIT),
}


@pytest.mark.parametrize("name", WIDE)
def test_wide_heads(interpreted: Interpreted, name: str) -> None:
    mixer = WIDE[name]
    module = in_chunks(interpreted(mixer.use))
    got, after = read(module.mix, mixer, (18, 1), torch.float32, None)
    want, kept = read(reference.mix, mixer, (18, 1), torch.float32, None)
    close(got, want, torch.float32)
    close(after, kept, torch.float32)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("delta", "decays = tl.exp(", "decays = 1.0 + 0.0 * ("),
        ("delta", "        now = (place == at_row)", "        now = (place == 1)"),
        ("delta", "(slot + 1 + j) % WIDTH", "(slot + j) % WIDTH"),
        ("channels", "sums = tl.cumsum(", "sums = 0.5 * tl.cumsum("),
        ("sum", "total = tl.cumsum(g, axis=0)", "total = g"),
    ],
)
def test_control_a_wrong_line_shows(
    interpreted: Interpreted, name: str, old: str, new: str
) -> None:
    mixer = MIXERS[name]

    def edit(text: str) -> str:
        assert old in text, old
        return text.replace(old, new)

    module = in_chunks(interpreted(mixer.use, edit=edit))
    got = read(module.mix, mixer, (17, 1, 1), torch.float32, None)[0]
    want = read(reference.mix, mixer, (17, 1, 1), torch.float32, None)[0]
    assert (got - want).abs().max() > 1e-2


@pytest.mark.parametrize("fn", [None, "silu"])
@examples(4)
@given(
    channels=st.sampled_from([7, 70, 300]),
    width=st.integers(2, 7),
    calls=st.sampled_from([(1, 1, 1), (40, 1), (3, 2, 1), (7, 33)]),
    start=st.sampled_from([None, [2, 0], [0, 5]]),
)
def test_a_short_convolution(
    interpreted: Interpreted,
    fn: str | None,
    channels: int,
    width: int,
    calls: tuple[int, ...],
    start: list[int] | None,
) -> None:
    module = interpreted(conv_use(channels, width, fn, "bias"))
    weight = random(channels, width, dtype=torch.float32, seed=1)
    bias = random(channels, dtype=torch.float32, seed=2)
    start = start if calls[0] > 5 else None
    made: list[list[torch.Tensor]] = []
    for op in (module.short_conv, reference.short_conv):
        kept = {"state": PerRow(channels, width)}
        cache = emptied(kept, 2, torch.float32, start)
        made.append([])
        for seed, count in enumerate(calls):
            x = random(2, count, channels, dtype=torch.float32, seed=3 + seed)
            made[-1].append(op(x, weight, cache.own[0], bias=bias, fn=fn)[0])
            cache.length += count
        made[-1].append(cache.own[0].rows)
    close(made[0], made[1], torch.float32)


@pytest.mark.parametrize("order", ["norm_first", "gate_first"])
@pytest.mark.parametrize(("fn", "weight_in"), [("silu", "input"), ("sigmoid", "f32")])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("groups", "parts"), [(1, 1), (3, 1), (3, 3)])
def test_a_gated_norm(
    interpreted: Interpreted,
    order: str,
    fn: str,
    weight_in: str,
    groups: int,
    parts: int,
    centred: bool,
) -> None:
    """The weight has a number for each channel, or for each of a part."""
    width = 3 * 50
    how: dict[str, Any] = {"fn": fn, "order": order, "weight_in": weight_in}
    # As builds say it: one group is what an op has that names none.
    how |= {"eps": 1e-2, **({"groups": groups} if groups > 1 else {})}
    how |= {"centred": True} if centred else {}
    module = interpreted(gated_use(width, width // parts, **how))
    x, z = (random(2, 3, width, dtype=torch.float32, seed=n) for n in range(2))
    weight = random(width // parts, dtype=torch.float32, seed=2)
    close(
        module.gated_norm(x, z, weight, **how),
        reference.gated_norm(x, z, weight, **how),
        torch.float32,
    )
