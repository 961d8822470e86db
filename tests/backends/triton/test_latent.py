"""Kernels of latent attention against the reference, interpreted."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmc.backends.runtime.cache import Cache
from glmc.backends.torch import ops as reference
from glmc.backends.triton.uses import OpUse
from support.kernels import examples, filled_cache, latent_uses, random, render
from support.ranges import first

Interpreted = Callable[..., ModuleType]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}
SCALE = 0.2


def run(
    module: Any,
    tokens: int,
    *,
    heads: int = 3,
    nope: int = 12,
    turned: int = 8,
    v_dim: int = 20,
    rank: int = 32,
    past: int = 5,
    start: list[int] | None = None,
    selected: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[torch.Tensor, Cache]:
    """Write and attend with a module's kernels: the context, and the cache."""
    shape = (rank + turned,)
    cache = filled_cache(
        shape, batch=2, past=past, tokens=tokens, dtype=dtype, start=start
    )
    layer = cache.own[0]
    latent = random(2, tokens, rank, dtype=dtype, seed=seed)
    shared = random(2, tokens, 1, turned, dtype=dtype, seed=seed + 1)
    q = random(2, tokens, heads, nope + turned, dtype=dtype, seed=seed + 2)
    kv_b = random(heads * (nope + v_dim), rank, dtype=dtype, seed=seed + 3)
    more = {}
    if selected is not None:
        more["selection"] = select(past, tokens, min(selected, past + tokens), seed)
    module.latent_write(layer, latent, shared)
    kv_b = kv_b / rank**0.5
    return module.latent_attention(q, layer, kv_b, **more, scale=SCALE), cache


def select(past: int, tokens: int, count: int, seed: int) -> torch.Tensor:
    """Distinct slots, a query's own among them, others that it may not see too."""
    scores = random(2, tokens, past + tokens, dtype=torch.float32, seed=seed)
    own = torch.arange(past, past + tokens)[None, :, None].expand(2, -1, 1)
    return scores.scatter(-1, own, 99.0).topk(count).indices


def real(context: torch.Tensor, past: int, start: list[int] | None) -> torch.Tensor:
    """Without the queries of padding, which may differ."""
    slots = torch.arange(past, past + context.shape[1])
    return context[slots >= torch.tensor(start or [0, 0])[:, None]]


@pytest.mark.parametrize("tokens", [1, 2, 37])
@pytest.mark.parametrize("selects", [False, True])
@examples(3)
@given(
    dtype=st.sampled_from(list(TOLERANCE)),
    heads=st.sampled_from([1, 3, 17]),
    sizes=st.sampled_from([(12, 8, 20, 32), (16, 4, 16, 24), (33, 16, 40, 70)]),
    past=st.sampled_from([0, 1, 31, 100]),
    padding=st.one_of(st.none(), st.integers(0, 9)),
    selected=st.sampled_from([0, 3, 40]),
    seed=st.integers(0, 99),
)
def test_values(
    interpreted: Interpreted,
    tokens: int,
    selects: bool,
    dtype: torch.dtype,
    heads: int,
    sizes: tuple[int, int, int, int],
    past: int,
    padding: int | None,
    selected: int,
    seed: int,
) -> None:
    names = ("nope", "turned", "v_dim", "rank")
    shape = {"heads": heads, **dict(zip(names, sizes, strict=True))}
    start = None if padding is None else [0, min(padding, past + tokens - 1)]
    call: dict[str, Any] = {"past": past, "start": start, "dtype": dtype, "seed": seed}
    call["selected"] = selected if selects else None
    module = interpreted(*latent_uses(**shape, selects=selects))
    got, cache = run(module, tokens, **shape, **call)
    want, expected = run(reference, tokens, **shape, **call)
    assert got.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        real(got, past, start), real(want, past, start), atol=tolerance, rtol=tolerance
    )
    filled = [c.own[0].slots[:, : past + tokens] for c in (cache, expected)]
    assert torch.equal(*filled)
    assert cache.own[0].slots[:, past + tokens :].isnan().all()


def test_states_that_lie_apart(interpreted: Interpreted) -> None:
    module = interpreted(*latent_uses())
    for tokens in (1, 4):
        packed = random(2, tokens, 2 * 60 + 40, dtype=torch.float32, seed=1)
        q = packed[..., 5:65].view(2, tokens, 3, 20)
        latent, shared = packed[..., 65:97], packed[..., 97:105].unsqueeze(2)
        kv_b = random(3 * 32, 32, dtype=torch.float32, seed=2)
        found = []
        for side in (module, reference):
            kv = filled_cache(
                (40,), batch=2, past=3, tokens=tokens, dtype=torch.float32
            ).own[0]
            side.latent_write(kv, latent, shared)  # type: ignore[attr-defined]
            attend = side.latent_attention  # type: ignore[attr-defined]
            found.append(attend(q, kv, kv_b, scale=SCALE))
        torch.testing.assert_close(*found, atol=1e-4, rtol=1e-5)


def test_decode_reads_the_position_on_the_device(interpreted: Interpreted) -> None:
    """The same launches serve the next position, as in a captured graph."""
    module = interpreted(*latent_uses())
    _, cache = run(module, 1, past=9)
    layer = cache.own[0]
    layer.slots[:, 7:] = torch.nan
    cache.position.fill_(6)
    latent, shared = torch.ones(2, 1, 32), torch.ones(2, 1, 1, 8)
    q = random(2, 1, 3, 20, dtype=torch.float32, seed=4)
    kv_b = random(3 * 32, 32, dtype=torch.float32, seed=5)
    module.latent_write(layer, latent, shared)
    got = module.latent_attention(q, layer, kv_b, scale=SCALE)
    assert (layer.slots[:, 6] == 1).all()
    cache.length = 6
    want = reference.latent_attention(q, layer, kv_b, scale=SCALE)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)


def test_a_sequence_gives_the_same_numbers_in_any_batch(
    interpreted: Interpreted,
) -> None:
    module = interpreted(*latent_uses())
    _, cache = run(module, 1, past=40)
    layer = cache.own[0]
    q = random(2, 1, 3, 20, dtype=torch.float32, seed=4)
    kv_b = random(3 * 32, 32, dtype=torch.float32, seed=5)
    both = module.latent_attention(q, layer, kv_b, scale=SCALE)
    layer.slots = layer.slots[1:]
    alone = module.latent_attention(q[1:], layer, kv_b, scale=SCALE)
    assert torch.equal(both[1:], alone)


def test_what_no_kernel_knows_of_is_the_references() -> None:
    write, attend = latent_uses()
    biased = OpUse(attend.name, attend.attrs, attend.operands | {"bias"}, attend.shapes)
    capped = OpUse(
        attend.name, {**attend.attrs, "softcap": 30.0}, attend.operands, attend.shapes
    )
    for other in (biased, capped):
        assert "from .reference import latent_attention" in render(write, other)
    assert "from .reference" not in render(write, attend)
    # One layer has it and the other has not: each runs as it may.
    both = render(write, attend, biased)
    assert "    if bias is not None:\n        return reference.latent_att" in both
    assert "    return _latent_attention(" in both


@pytest.mark.parametrize(
    ("tokens", "selected", "old", "new"),
    first(
        1,
        [
            (1, None, "* RANK + column[None, :]", "* RANK"),
            (1, None, "row + NOPE + channel", "row + channel"),
            (1, None, "+ NOPE + column)[:, None]", "+ column)[:, None]"),
            (1, None, "split * span", "0 * span"),
            (1, None, "power /= tl.sum(power, axis=0)", "power /= 2.0"),
            (1, None, "scores += tl.dot(turned", "scores -= tl.dot(turned"),
            (1, 4, "selection + batch * N + slot", "selection + slot"),
            (1, 40, "visible &= (slot >= lowest)", "visible &= (slot >= 0)"),
            (
                6,
                None,
                "visible = slot[None, :] <= past",
                "visible = slot[None, :] < past",
            ),
            (6, None, "made + NOPE + valued", "made + valued"),
            (6, None, "+ slot[:, None]) * (RANK + TURNED) + RANK", "+ 0) * RANK"),
            (6, 4, "(batch * T + token[:, None]) * S + slot", "batch * T * S + slot"),
            (
                6,
                None,
                "slot = batch * capacity + tl.load(position)",
                "slot = batch * T",
            ),
        ],
    ),
)
def test_control_a_wrong_line_shows(
    interpreted: Interpreted, tokens: int, selected: int | None, old: str, new: str
) -> None:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    uses = latent_uses(selects=selected is not None)
    call: dict[str, Any] = {"past": 70, "start": [0, 30], "selected": selected}
    want, expected = run(reference, tokens, **call)
    for module, wrong in (
        (interpreted(*uses), False),
        (interpreted(*uses, edit=edit), True),
    ):
        got, cache = run(module, tokens, **call)
        filled = [c.own[0].slots[:, : 70 + tokens] for c in (cache, expected)]
        same = torch.equal(*filled) and torch.allclose(got, want, atol=1e-4)
        assert same is not wrong
