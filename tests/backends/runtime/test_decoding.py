"""Recorded steps: nothing comes from the host, and what is generated stays the same."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glmc.backends.runtime.cache import Cache, HostRead
from glmc.backends.runtime.causal_lm import CausalLM
from glmc.backends.runtime.decoder import Decoder
from glmc.backends.runtime.glm_positions import GlmPositions
from glmc.backends.runtime.graphs import Watch, refusal, waits
from glmc.backends.runtime.state import KeysValues
from glmc.backends.torch import ops as reference
from glmc.backends.torch.ops.rope import rope_table_longrope
from support.ondevice import operations, qkv_attention
from support.tape import Tape, Tapes

PROMPT = torch.tensor([[5, 9, 3, 41]])
BATCH = torch.tensor([[5, 9, 3, 41], [0, 0, 7, 30], [0, 11, 12, 13]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]])


@pytest.fixture
def tapes() -> Tapes:
    return Tapes()


@pytest.fixture
def recorded(model: CausalLM, tapes: Tapes) -> CausalLM:
    """The model with ops that can be recorded, and a recorder."""
    other = copy.copy(model)
    other.ops = operations()
    other._decoder = Decoder(lambda _: tapes)
    return other


def test_a_replay_a_token(model: CausalLM, recorded: CausalLM, tapes: Tapes) -> None:
    want = model.generate(PROMPT, max_new_tokens=9, eos_token_id=())
    got = recorded.generate(PROMPT, max_new_tokens=9, eos_token_id=())
    assert torch.equal(got, want)
    assert (tapes.warmed, len(tapes.recorded), tapes.replays) == (1, 1, 8)
    assert recorded.decode_path == "one graph replay a token (1 rows, 1024 slots)"
    assert model.decode_path == "eager: this build records no steps on a cpu"


#: Rules that look at what was said, count it, and ban by it.
RULES: dict[str, Any] = {
    "repetition_penalty": 1.4,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[4, 7], [11]],
    "suppress_tokens": [3, 30],
    "begin_suppress_tokens": [5],
    "min_new_tokens": 5,
    "eos_token_id": 20,
    "forced_eos_token_id": 20,
    "exponential_decay_length_penalty": (6, 1.5),
}


@pytest.mark.parametrize("drawn", [{}, {"do_sample": True, "min_p": 0.01, "seed": 4}])
def test_rules_are_recorded(
    model: CausalLM, recorded: CausalLM, tapes: Tapes, drawn: dict[str, Any]
) -> None:
    """Also with other rows, prompts and lengths than they were recorded with."""
    # Draws of rows that fill up a bucket move those of the others.
    rows = 2 if drawn else 3
    first = BATCH[:rows], MASK[:rows], 9
    for ids, mask, new in (first, (BATCH.flip(0)[:rows], MASK.flip(0)[:rows], 12)):
        given = {"max_new_tokens": new, **RULES, **drawn}
        want = model.generate(ids, mask, **given)
        assert torch.equal(recorded.generate(ids, mask, **given), want)
        assert recorded.decode_path.startswith("one graph replay a token")
    want = model.generate(BATCH[:1], max_new_tokens=9, **RULES, **drawn)
    got = recorded.generate(BATCH[:1], max_new_tokens=9, **RULES, **drawn)
    assert torch.equal(got, want)
    assert len(tapes.recorded) == 2
    # Control: the rules change what is said.
    plain = recorded.generate(BATCH, MASK, max_new_tokens=9, eos_token_id=(), **drawn)
    ruled = recorded.generate(BATCH, MASK, max_new_tokens=9, **RULES, **drawn)
    assert not torch.equal(plain, ruled)


def test_a_processor_of_ones_own_is_not_recorded(
    model: CausalLM, recorded: CausalLM, tapes: Tapes
) -> None:
    def own(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(torch.arange(50) % 2 == 1, -float("inf"))

    got = recorded.generate(PROMPT, max_new_tokens=9, logits_processor=own)
    assert torch.equal(
        got, model.generate(PROMPT, max_new_tokens=9, logits_processor=own)
    )
    assert not (got[:, 4:] % 2).any()
    why = "a logits processor of the caller's own runs in Python"
    assert recorded.decode_path == f"eager: {why}"
    assert not tapes.recorded
    recorded.generate(PROMPT, max_new_tokens=9)
    assert recorded.decode_path.startswith("one graph replay a token")


def test_steps_serve_later_generations(
    model: CausalLM, recorded: CausalLM, tapes: Tapes
) -> None:
    recorded.generate(PROMPT, max_new_tokens=9, eos_token_id=())
    for prompt in (PROMPT, torch.tensor([[7, 30]]), torch.tensor([[1, 2, 3, 4, 5, 6]])):
        want = model.generate(prompt, max_new_tokens=5, eos_token_id=())
        got = recorded.generate(prompt, max_new_tokens=5, eos_token_id=())
        assert torch.equal(got, want)
    assert len(tapes.recorded) == 1


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_padded_rows_fill_up_a_bucket(
    model: CausalLM, recorded: CausalLM, rows: int, ahead: int
) -> None:
    recorded.decoder.ahead = ahead
    ids, mask = BATCH[:rows], MASK[:rows]
    want = model.generate(ids, mask, max_new_tokens=7, eos_token_id=())
    stop = int(want[-1, 6])
    for eos in ((), stop):
        options: dict[str, Any] = {"max_new_tokens": 7, "eos_token_id": eos}
        want = model.generate(ids, mask, **options)
        assert torch.equal(recorded.generate(ids, mask, **options), want)
    assert f"({ {1: 1, 2: 2, 3: 4}[rows] } rows" in recorded.decode_path


def long_rope(pos: torch.Tensor, *, dim: int, theta: float) -> Any:
    """Other divisors for all keys as soon as a text has more than six tokens."""
    return rope_table_longrope(
        pos,
        dim=dim,
        theta=theta,
        short_factor=(1.0,) * (dim // 2),
        long_factor=tuple(2.0 + i for i in range(dim // 2)),
        original_max_positions=6,
        attention_factor=1.0,
    )


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 2.0, "seed": 5}])
def test_a_text_that_gets_long_is_read_again(
    model: CausalLM,
    recorded: CausalLM,
    tapes: Tapes,
    ahead: int,
    sampling: dict[str, Any],
) -> None:
    model.ops = operations(rope_table=long_rope, qkv_attention=reference.qkv_attention)
    recorded.ops = operations(rope_table=long_rope)
    recorded.decoder.ahead = ahead
    model.turns_at = recorded.turns_at = (6,)  # type: ignore[misc]
    options: dict[str, Any] = {"max_new_tokens": 9, "eos_token_id": (), **sampling}
    given = BATCH[:2], MASK[:2]  # a bucket draws for all of its rows
    want = model.generate(*given, **options)
    for _ in range(2):
        assert torch.equal(recorded.generate(*given, **options), want)
    # Two generations of eight steps each, of which one reads everything.
    assert (len(tapes.recorded), tapes.replays) == (1, 14)
    model.turns_at = ()  # type: ignore[misc]
    assert not torch.equal(model.generate(*given, **options), want)


def test_padding_comes_and_goes(model: CausalLM, recorded: CausalLM) -> None:
    for mask in (MASK, None, MASK.roll(1, 0), torch.ones_like(MASK)):
        want = model.generate(BATCH, mask, max_new_tokens=6, eos_token_id=())
        got = recorded.generate(BATCH, mask, max_new_tokens=6, eos_token_id=())
        assert torch.equal(got, want)


def test_positions_count_on_from_those_given(
    model: CausalLM, recorded: CausalLM
) -> None:
    for pos in ([[3, 4, 5, 6]], [7, 8, 9, 10]):
        options: dict[str, Any] = {"position_ids": torch.tensor(pos)}
        options |= {"max_new_tokens": 6, "eos_token_id": ()}
        want = model.generate(PROMPT, **options)
        assert torch.equal(recorded.generate(PROMPT, **options), want)


def test_two_streams_of_positions(
    model: CausalLM, recorded: CausalLM, tapes: Tapes
) -> None:
    """As ChatGLM-6B counts them, in rows of different prompts."""
    for one in (model, recorded):
        one.scheme = GlmPositions(gmask=48, mask=47, sop=49)  # type: ignore[misc]
        run = one.run
        one.run = lambda ids, pos, *rest, run=run: run(  # type: ignore[method-assign]
            ids, pos[:, 0] + 3 * pos[:, 1], *rest
        )
    for prompts, mask in (
        (
            [[5, 48, 49, 7], [9, 8, 48, 49], [0, 48, 49, 3]],
            [[1] * 4] * 2 + [[0, 1, 1, 1]],
        ),
        ([[7, 9, 48, 49]], [[1] * 4]),
    ):
        ids, real = torch.tensor(prompts), torch.tensor(mask)
        want = model.generate(ids, real, max_new_tokens=7, eos_token_id=())
        got = recorded.generate(ids, real, max_new_tokens=7, eos_token_id=())
        assert torch.equal(got, want)
        assert recorded.decode_path.startswith("one graph")
    assert tapes.replays == 12


SAMPLED: list[dict[str, Any]] = [
    {"temperature": 3.0},
    {"top_k": 9, "temperature": 2.0},
    {"top_p": 0.7, "temperature": 3.0},
]


@pytest.mark.parametrize("options", SAMPLED, ids=str)
def test_draws_are_those_of_eager_steps(
    model: CausalLM, recorded: CausalLM, tapes: Tapes, options: dict[str, Any]
) -> None:
    for seed in (1, 2, 1):
        given = {"max_new_tokens": 12, "eos_token_id": (), "seed": seed, **options}
        want = model.generate(PROMPT, **given)
        assert torch.equal(recorded.generate(PROMPT, **given), want)
    assert len(tapes.recorded) == 1


def test_unseeded_draws_are_those_of_torchs_generator(
    model: CausalLM, recorded: CausalLM
) -> None:
    found = []
    for drawing in (model, recorded, recorded):
        torch.manual_seed(4)
        options: dict[str, Any] = {"temperature": 3.0, "eos_token_id": ()}
        found.append(drawing.generate(PROMPT, max_new_tokens=12, **options))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_longer_generations_get_more_slots(
    recorded: CausalLM, model: CausalLM, tapes: Tapes
) -> None:
    recorded.generate(PROMPT, max_new_tokens=2, eos_token_id=())
    kept = recorded.decoder.kept
    assert kept is not None
    prompt = torch.arange(1023)[None] % 50
    got = recorded.generate(prompt, max_new_tokens=3, eos_token_id=())
    want = model.generate(prompt, max_new_tokens=3, eos_token_id=())
    assert torch.equal(got, want)
    assert recorded.decode_path == "one graph replay a token (1 rows, 2048 slots)"
    assert len(tapes.recorded) == 2


def test_other_weights_and_ops_are_recorded_anew(
    model: CausalLM, recorded: CausalLM, tapes: Tapes
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": ()}
    recorded.generate(PROMPT, **options)
    model.head = torch.nn.Parameter(model.head.flip(0).clone())
    assert torch.equal(
        recorded.generate(PROMPT, **options), model.generate(PROMPT, **options)
    )
    assert len(tapes.recorded) == 2
    recorded.ops = operations()
    recorded.generate(PROMPT, **options)
    assert len(tapes.recorded) == 3


def test_inference_mode_comes_and_goes(model: CausalLM, recorded: CausalLM) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": ()}
    want = model.generate(PROMPT, **options)
    for inference in (False, True, False):
        with torch.inference_mode(inference):
            got = recorded.generate(PROMPT, **options)
        assert torch.equal(got, want)
        assert recorded.decode_path.startswith("one graph")


def test_generations_at_once_do_not_share_slots(
    model: CausalLM, recorded: CausalLM
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": ()}
    want = model.generate(PROMPT, **options)[0, 4:].tolist()
    other = model.generate(PROMPT.flip(1), **options)[0, 4:].tolist()
    one = recorded.generate(PROMPT, stream=True, **options)
    got = [int(next(one))]
    assert recorded.generate(PROMPT.flip(1), **options)[0, 4:].tolist() == other
    assert "another generation" in recorded.decode_path
    assert [*got, *map(int, one)] == want
    # One that is left early gives its slots back.
    next(iter(recorded.generate(PROMPT, stream=True, **options)))
    recorded.generate(PROMPT, **options)
    assert recorded.decode_path.startswith("one graph")


def test_forget_and_copies(recorded: CausalLM, tapes: Tapes) -> None:
    recorded.generate(PROMPT, max_new_tokens=3, eos_token_id=())
    assert recorded.decoder.kept is not None
    assert copy.copy(recorded).decoder.kept is None
    recorded.decoder.forget()
    recorded.generate(PROMPT, max_new_tokens=3, eos_token_id=())
    assert len(tapes.recorded) == 2


def test_steps_that_look_at_the_host_are_not_recorded(
    model: CausalLM, tapes: Tapes
) -> None:
    want = model.generate(BATCH, MASK, max_new_tokens=6, eos_token_id=())
    model._decoder = Decoder(lambda _: tapes)
    for _ in range(2):
        got = model.generate(BATCH, MASK, max_new_tokens=6, eos_token_id=())
        assert torch.equal(got, want)
        assert model.decode_path == (
            "eager: kv_write (attention.py) reads on the host how many slots are filled"
        )
    assert tapes.recorded == []
    assert model.decoder.kept is None


def test_reasons_that_need_no_try(recorded: CausalLM) -> None:
    options: dict[str, Any] = {"max_new_tokens": 2, "eos_token_id": ()}
    recorded.generate(PROMPT.expand(17, 4).contiguous(), **options)
    assert recorded.decode_path == "eager: a batch of 17 has more than 16 rows"
    hook = recorded.layers[1].register_forward_hook(lambda *_: None)
    recorded.generate(PROMPT, **options)
    assert "layers.1 has a hook" in recorded.decode_path
    hook.remove()
    recorded.generate(PROMPT, **options)
    assert recorded.decode_path.startswith("one graph")


def test_what_cuda_refuses_is_told(recorded: CausalLM, model: CausalLM) -> None:
    class Refusing(Tapes):
        def record(self, run: Any, generator: Any) -> Any:
            run()
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    recorded._decoder = Decoder(lambda _: Refusing())
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 2.0, "seed": 3}
    got = recorded.generate(PROMPT, eos_token_id=(), **options)
    assert torch.equal(got, model.generate(PROMPT, eos_token_id=(), **options))
    assert recorded.decode_path == (
        "eager: recording failed: operation not permitted when stream is capturing"
    )


LOOKS: dict[str, tuple[Any, str]] = {
    "item": (lambda x: x * float(x.max()), "waits for a value of the device"),
    "if": (lambda x: -x if x.sum() > 0 else x, "waits for a value of the device"),
    "equal": (lambda x: x * torch.equal(x, x), "waits for a value of the device"),
    "nonzero": (lambda x: x[x.nonzero()[0]], "a tensor whose size depends on values"),
    "mask": (lambda x: x[x > 0], "a tensor whose size depends on values"),
    "put": (lambda x: x.clone().index_put_((x > 9,), x.sum()), "size depends on"),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_at_a_value_is_refused_by_name(name: str) -> None:
    look, reason = LOOKS[name]
    cache = Cache([{"kv": KeysValues(1, 4, 4)}], 1, 4, torch.float32, "cpu")
    said = refusal(lambda: look(torch.ones(3)), cache)
    assert said is not None
    assert reason in said
    assert said.startswith("<lambda> (test_decoding.py) ")


def test_a_look_at_the_length_is_refused_and_only_then() -> None:
    cache = Cache([{"kv": KeysValues(1, 4, 4)}], 1, 4, torch.float32, "cpu")
    cache.advance(2)
    with cache.on_device(), pytest.raises(HostRead):
        _ = cache.own[0].past
    assert cache.own[0].past == int(cache.position) == 2


def test_what_may_be_recorded_is_not_refused() -> None:
    x, rows = torch.ones(4, 3), torch.tensor([2, 0])
    with Watch():
        found = x[rows] * torch.tensor(2.0) + torch.arange(3) + x.topk(1).values[:2]
        x.index_put_((rows,), found)
        x.argsort(stable=True).cumsum(0)
    assert x.sum() > 12


def test_copies_between_devices_wait() -> None:
    copying, far = torch.ops.aten._to_copy.default, torch.empty(3, device="meta")
    assert waits(copying, (far,), {"device": torch.device("cpu")})
    assert waits(torch.ops.aten.copy_.default, (far, torch.ones(3)), {})
    assert not waits(copying, (far,), {"dtype": torch.float64})
    assert not waits(torch.ops.aten.mul.Tensor, (far, torch.tensor(2.0)), {})


def stale(qkv: torch.Tensor, kv: Any, **options: Any) -> torch.Tensor:
    """Takes the number of filled slots past the watch."""
    past = kv.cache._length
    position = torch.tensor([past], dtype=torch.int32)
    slots = {"keys": kv.keys, "values": kv.values, "start": kv.start}
    ways = {"write": kv.write, "read": kv.read}
    seen = SimpleNamespace(**slots, **ways, past=past, position=position)
    return qkv_attention(qkv, seen, **options)


def test_control_a_stale_number_is_seen(model: CausalLM, recorded: CausalLM) -> None:
    recorded.ops = operations(qkv_attention=stale)
    want = model.generate(PROMPT, max_new_tokens=9, eos_token_id=())
    got = recorded.generate(PROMPT, max_new_tokens=9, eos_token_id=())
    assert recorded.decode_path.startswith("one graph")
    assert not torch.equal(got, want)


def test_control_a_tensor_from_outside_is_seen(
    model: CausalLM, recorded: CausalLM
) -> None:
    """A step that makes its own copy of the newest ids while it is recorded."""
    run = recorded.run
    recorded.run = lambda ids, *rest: run(torch.tensor(ids.tolist()), *rest)
    want = model.generate(PROMPT, max_new_tokens=9, eos_token_id=())
    got = recorded.generate(PROMPT, max_new_tokens=9, eos_token_id=())
    assert not torch.equal(got, want)


def test_control_a_tape_repeats_launches_not_python() -> None:
    factor, x, out = [2.0], torch.ones(3), torch.zeros(3)
    tape = Tape()
    with tape:
        out.copy_((x * factor[0]).exp().flatten())
    factor[0], x[0] = 5.0, 3.0
    tape.replay()
    torch.testing.assert_close(out, torch.tensor([6.0, 2.0, 2.0]).exp())
