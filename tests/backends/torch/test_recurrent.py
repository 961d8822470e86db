"""Short convolutions and scans against loops over tokens, and what holds of states."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from glmc.backends.torch import ops
from glmc.backends.torch.ops import recurrent

CLOSE = 3e-5
TOKENS = 150
"""More than two chunks of either kind, and no multiple of one."""


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kept(*sizes: int, past: int = 0, start: Any = None) -> Any:
    """A state of zeros, as an op is given it."""
    position = torch.tensor([past], dtype=torch.int32)
    rows = torch.zeros(sizes)
    return SimpleNamespace(rows=rows, past=past, position=position, start=start)


def went(state: Any, tokens: int) -> None:
    """Move a state on, as the cache does after a call."""
    state.past += tokens
    state.position += tokens


def operands(of: str, correct: bool, tokens: int = TOKENS) -> dict[str, Any]:
    """q, k, v, g and perhaps beta: 2 heads of keys for 6 of values."""
    q, k = (F.normalize(noise(2, tokens, 2, 12, seed=s), dim=-1) for s in (1, 2))
    decays = (2, tokens, 6) if of == "head" else (2, tokens, 6, 12)
    given = {"q": q, "k": k, "v": noise(2, tokens, 6, 10, seed=3)}
    given["g"] = -F.softplus(3 * noise(*decays, seed=4))
    beta = {"beta": torch.sigmoid(noise(2, tokens, 6, seed=5))} if correct else {}
    return given | beta


def looped(
    q: Any, k: Any, v: Any, g: Any, beta: Any = None, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence as papers write it, token by token and head by head, in fp64."""
    q, k, v, g = (x.double() for x in (q, k, v, g))
    share = v.shape[2] // k.shape[2]
    y = torch.zeros(*v.shape, dtype=torch.float64)
    states = torch.zeros(*v.shape[::2], k.shape[3], v.shape[3], dtype=torch.float64)
    for row in range(v.shape[0]):
        for head in range(v.shape[2]):
            state, one = states[row, head], head // share
            for t in range(v.shape[1]):
                left = g[row, t, head].exp()
                state = (left[:, None] if left.dim() else left) * state
                key, value = k[row, t, one], v[row, t, head]
                if beta is not None:
                    value = beta[row, t, head].double() * (value - state.T @ key)
                state = state + torch.outer(key, value)
                y[row, t, head] = scale * state.T @ q[row, t, one]
            states[row, head] = state
    return y.flatten(2), states


KINDS = [(of, correct) for of in ("head", "key") for correct in (True, False)]


@pytest.mark.parametrize(("of", "correct"), KINDS)
def test_a_scan_is_its_recurrence(of: str, correct: bool) -> None:
    given, state = operands(of, correct), kept(2, 6, 12, 10)
    want, last = looped(**given, scale=0.3)
    got, after = ops.scan(**given, state=state, scale=0.3)
    assert after is state
    assert (got - want).abs().max() < CLOSE
    assert (state.rows - last).abs().max() < CLOSE


@pytest.mark.parametrize(("of", "correct"), KINDS)
@pytest.mark.parametrize("calls", [(100, 50), (1,) * TOKENS, (70, 1, 1, 78)])
def test_a_scan_is_the_same_in_several_calls(
    of: str, correct: bool, calls: tuple[int, ...]
) -> None:
    given = operands(of, correct)
    whole, state = kept(2, 6, 12, 10), kept(2, 6, 12, 10)
    want = ops.scan(**given, state=whole)[0]
    made, at = [], 0
    for tokens in calls:
        part = {name: x[:, at : at + tokens] for name, x in given.items()}
        made.append(ops.scan(**part, state=state)[0])
        at += tokens
    assert (torch.cat(made, 1) - want).abs().max() < CLOSE
    assert (state.rows - whole.rows).abs().max() < CLOSE


@pytest.mark.parametrize(("of", "correct"), KINDS)
def test_padding_leaves_a_scan_alone(of: str, correct: bool) -> None:
    given, start = operands(of, correct, 40), torch.tensor([13, 0], dtype=torch.int32)
    padded = kept(2, 6, 12, 10, start=start)
    got = ops.scan(**given, state=padded)[0]
    alone = kept(1, 6, 12, 10)
    part = {name: x[:1, 13:] for name, x in given.items()}
    assert (got[:1, 13:] - ops.scan(**part, state=alone)[0]).abs().max() < CLOSE
    assert (padded.rows[:1] - alone.rows).abs().max() < CLOSE
    assert got.isfinite().all()


def test_strong_decays_stay_finite() -> None:
    """Sums of logarithms far below what exp has numbers for."""
    given = operands("key", True)
    given["g"] = 40 * given["g"]
    want, last = looped(**given)
    state = kept(2, 6, 12, 10)
    assert (ops.scan(**given, state=state)[0] - want).abs().max() < 3 * CLOSE
    assert (state.rows - last).abs().max() < 3 * CLOSE


def test_control_a_chunk_that_forgets_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands("head", True)
    want = looped(**given)[0]
    right = recurrent._products
    for wrong in (
        lambda q, k, total: right(q, k, torch.zeros_like(total)),
        lambda q, k, total: right(q, k, total).tril(-1),
    ):
        monkeypatch.setattr(recurrent, "_products", wrong)
        got = recurrent.scan(**given, state=kept(2, 6, 12, 10))[0]
        assert (got - want).abs().max() > 1e-2


@pytest.mark.parametrize("fn", [None, "silu"])
@pytest.mark.parametrize("calls", [(20,), (3, 1, 1, 15), (1,) * 20])
def test_a_short_convolution(fn: str | None, calls: tuple[int, ...]) -> None:
    """torch's own convolution of everything at once, with zeros before."""
    x, weight, bias = noise(2, 20, 7), noise(7, 4, seed=1), noise(7, seed=2)
    layer = torch.nn.Conv1d(7, 7, 4, padding=3, groups=7)
    with torch.no_grad():
        layer.weight.copy_(weight[:, None])
        assert layer.bias is not None
        layer.bias.copy_(bias)
        want = layer(x.transpose(1, 2))[:, :, :20].transpose(1, 2)
    want = F.silu(want) if fn else want
    state, made, at = kept(2, 7, 4), [], 0
    for tokens in calls:
        part = x[:, at : at + tokens]
        made.append(ops.short_conv(part, weight, state, bias=bias, fn=fn)[0])
        went(state, tokens)
        at += tokens
    assert (torch.cat(made, 1) - want).abs().max() < CLOSE
    # 20 tokens: that of slot 16 lies in column 0 of the ring.
    assert torch.equal(state.rows, x[:, -4:].transpose(1, 2))
    swapped = ops.short_conv(x, weight.flip(1), kept(2, 7, 4), bias=bias, fn=fn)[0]
    assert (swapped - want).abs().max() > 0.1  # the last column is for the newest


def test_padding_leaves_a_short_convolution_alone() -> None:
    x, weight, bias = noise(2, 9, 7), noise(7, 4, seed=1), noise(7, seed=2)
    start = torch.tensor([5, 0], dtype=torch.int32)
    state, alone = kept(2, 7, 4, start=start), kept(1, 7, 4)
    got = ops.short_conv(x, weight, state, bias=bias)[0]
    want = ops.short_conv(x[:1, 5:], weight, alone, bias=bias)[0]
    assert torch.equal(got[0, :5], torch.zeros(5, 7))
    assert torch.allclose(got[:1, 5:], want)
    # Slots 5 to 8 beside tokens 0 to 3: the ring lies one column further.
    assert torch.equal(state.rows[:1], alone.rows.roll(1, 2))


@pytest.mark.parametrize("weight_in", ["input", "f32"])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_gated_norm(groups: int, weight_in: str) -> None:
    """torch's rms_norm, the gate before it or after."""
    x, z, weight = noise(2, 5, 12), noise(2, 5, 12, seed=1), noise(12, seed=2)
    how: dict[str, Any] = {"eps": 1e-2, "groups": groups, "weight_in": weight_in}

    def normed(given: torch.Tensor) -> torch.Tensor:
        parts = given.unflatten(-1, (groups, -1))
        return F.rms_norm(parts, parts.shape[-1:], eps=1e-2).flatten(-2) * weight

    got = ops.gated_norm(x, z, weight, fn="silu", order="gate_first", **how)
    assert torch.allclose(got, normed(x * F.silu(z)), atol=1e-6)
    first = ops.gated_norm(x, z, weight, fn="sigmoid", **how)
    assert torch.allclose(first, normed(x) * z.sigmoid(), atol=1e-6)
    assert not torch.allclose(got, first, atol=1e-2)


def test_what_a_scan_is_given() -> None:
    x, bias, a_log = noise(2, 5, 6), noise(6, seed=1), noise(6, seed=2)
    step = ops.step_size(x, bias=bias, low=0.1, high=1.0)
    want = torch.log1p(torch.exp(x.double() + bias)).clamp(0.1, 1.0)
    assert torch.allclose(step.double(), want)
    assert torch.allclose(ops.decay(step, a_log), -a_log.exp() * step)
    by_channel = ops.decay(noise(2, 5, 24), a_log)
    assert torch.allclose(
        by_channel[0, 0, 1], -a_log[1].exp() * noise(2, 5, 24)[0, 0, 4:8]
    )
    heads = noise(2, 5, 6, 4)
    assert torch.allclose(
        ops.scale_each(heads, x)[1, 2, 3], heads[1, 2, 3] * x[1, 2, 3]
    )
    y = ops.add_skip(noise(2, 5, 24), heads, a_log)
    want = noise(2, 5, 24).view(2, 5, 6, 4) + heads * a_log[:, None]
    assert torch.allclose(y, want.flatten(2))
    assert torch.allclose(ops.sigmoid(x, factor=2.0), 2 / (1 + (-x).exp()))
    lengths = ops.l2_normalize(heads, eps=0.0).norm(dim=-1)
    assert torch.allclose(lengths, torch.ones(2, 5, 6))


@pytest.mark.parametrize("calls", [(70,), (65, 1, 1, 3), (1,) * 70])
def test_a_scan_of_channels_is_its_recurrence(calls: tuple[int, ...]) -> None:
    v, step = noise(2, 70, 5), F.softplus(noise(2, 70, 5, seed=1))
    k, q, a_log = noise(2, 70, 3, seed=2), noise(2, 70, 3, seed=3), noise(5, 3, seed=4)
    skip = noise(5, seed=5)
    kept_rows, want = torch.zeros(2, 5, 3), torch.zeros(2, 70, 5)
    for row in range(2):
        for channel in range(5):
            for t in range(70):
                left = torch.exp(-a_log[channel].exp() * step[row, t, channel])
                written = step[row, t, channel] * v[row, t, channel] * k[row, t]
                kept_rows[row, channel] = left * kept_rows[row, channel] + written
                want[row, t, channel] = kept_rows[row, channel] @ q[row, t]
    want += skip * v
    state, made, at = kept(2, 5, 3), [], 0
    for tokens in calls:
        part = (x[:, at : at + tokens] for x in (v, step, k, q))
        made.append(ops.selective_scan(*part, a_log, skip, state)[0])
        went(state, tokens)
        at += tokens
    assert (torch.cat(made, 1) - want).abs().max() < CLOSE
    assert (state.rows - kept_rows).abs().max() < CLOSE
    swapped = ops.selective_scan(v, step, q, k, a_log, skip, kept(2, 5, 3))[0]
    assert (swapped - want).abs().max() > 0.1


def test_padding_leaves_a_scan_of_channels_alone() -> None:
    v, step = noise(2, 9, 5), F.softplus(noise(2, 9, 5, seed=1))
    k, q, a_log = noise(2, 9, 3, seed=2), noise(2, 9, 3, seed=3), noise(5, 3, seed=4)
    start = torch.tensor([4, 0], dtype=torch.int32)
    state, alone = kept(2, 5, 3, start=start), kept(1, 5, 3)
    got = ops.selective_scan(v, step, k, q, a_log, noise(5, seed=5), state)[0]
    part = (x[:1, 4:] for x in (v, step, k, q))
    want = ops.selective_scan(*part, a_log, noise(5, seed=5), alone)[0]
    assert torch.allclose(got[:1, 4:], want, atol=1e-6)
    assert torch.allclose(state.rows[:1], alone.rows, atol=1e-6)


def test_a_decay_that_no_token_changes() -> None:
    """Head h of 6 leaves exp(-2^(-8h/6)) of its state, h counted from 1."""
    x = noise(2, 5, 24)
    got = ops.steady_decay(x, heads=6)
    want = torch.tensor([-(2 ** (-8 * h / 6)) for h in range(1, 7)])
    assert got.shape == (2, 5, 6)
    assert got.dtype == torch.float32
    assert torch.allclose(got, want.expand(2, 5, 6))
    factors = torch.tensor([[[7.0, 0.5]]])
    half = ops.steady_decay(x, factors, heads=6, at=1)
    assert torch.allclose(half, want.expand(2, 5, 6) / 2)
    steeper = ops.steady_decay(x, heads=6, reach=4.0, scale=3.0)
    assert torch.allclose(steeper[0, 0, 5], torch.tensor(-3.0 / 16))
    assert not torch.allclose(steeper, want.expand(2, 5, 6), atol=0.1)


def test_a_decay_with_a_floor() -> None:
    x, bias, a_log = noise(2, 5, 24), noise(24, seed=1), noise(6, seed=2)
    got = ops.bounded_decay(x, a_log, bias=bias, floor=-5.0)
    rate = a_log.exp().repeat_interleave(4)
    want = -5.0 / (1 + torch.exp(-rate * (x + bias)))
    assert torch.allclose(got, want.view(2, 5, 6, 4))
    by_head = ops.bounded_decay(x[..., :6], a_log, floor=-5.0)
    assert torch.allclose(by_head, -5.0 * torch.sigmoid(a_log.exp() * x[..., :6]))
    assert not torch.allclose(by_head, -a_log.exp() * F.softplus(x[..., :6]), atol=0.1)


def test_parts_of_channels_that_are_scanned_by_themselves() -> None:
    """Three parts of 4 channels are three scans, each with keys and queries of its
    own."""
    v, step = noise(2, TOKENS, 12), F.softplus(noise(2, TOKENS, 12, seed=1))
    k, q = noise(2, TOKENS, 15, seed=2), noise(2, TOKENS, 15, seed=3)
    a_log, skip = noise(12, 5, seed=4), noise(12, seed=5)
    got = ops.selective_scan(v, step, k, q, a_log, skip, kept(2, 12, 5))[0]
    each = []
    for part in range(3):
        of, by = slice(4 * part, 4 * part + 4), slice(5 * part, 5 * part + 5)
        given = (v[..., of], step[..., of], k[..., by], q[..., by], a_log[of], skip[of])
        each.append(ops.selective_scan(*given, kept(2, 4, 5))[0])
    assert torch.allclose(got, torch.cat(each, -1), atol=1e-5)
    turned = ops.selective_scan(v, step, q, k, a_log, skip, kept(2, 12, 5))[0]
    assert not torch.allclose(got, turned, atol=0.1)
