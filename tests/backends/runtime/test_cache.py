"""The cache: what layers keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmc.backends.runtime.cache import Cache
from glmc.backends.runtime.state import (
    Declared,
    From,
    KeysValues,
    KvState,
    PerRow,
    PerToken,
    RowState,
)

SHAPES = [(2, 8, 4), (1, 6, 6)]
F32 = torch.float32
KEPT = [{"kv": KeysValues(*sizes)} for sizes in SHAPES]


def filled(capacity: int, length: int) -> Cache:
    cache = Cache(KEPT, 3, capacity, torch.bfloat16, "cpu")
    for layer in cache.own:
        layer.keys.normal_()
        layer.values.normal_()
    cache.advance(length)
    return cache


def test_shapes_and_state_are_those_of_the_cache() -> None:
    cache = filled(5, 2)
    assert [tuple(layer.keys.shape) for layer in cache.own] == [
        (3, 2, 5, 8),
        (3, 1, 5, 6),
    ]
    assert tuple(cache.own[0].values.shape) == (3, 2, 5, 4)
    assert [layer.past for layer in cache.own] == [2, 2]
    cache.start = torch.tensor([0, 1, 0], dtype=torch.int32)
    assert cache.own[1].start is cache.start
    assert repr(cache) == "Cache(layers=2, batch=3, length=2, capacity=5)"


def test_the_position_is_the_length_in_one_tensor_for_good() -> None:
    cache = filled(5, 2)
    position = cache.position
    assert position.dtype == torch.int32
    for advance in (lambda: cache.advance(3), lambda: cache.reserve(40)):
        advance()
        assert cache.position is position
        assert position.tolist() == [cache.length] == [5]
    cache.length = 4
    assert cache.own[1].position is position
    assert position.tolist() == [4]


def test_growth_keeps_the_filled_slots_and_at_least_doubles() -> None:
    cache = filled(5, 4)
    kept = [layer.keys[:, :, :4].clone() for layer in cache.own]
    cache.reserve(6)
    assert cache.capacity == 10
    cache.reserve(33)
    assert cache.capacity == 33
    for layer, keys in zip(cache.own, kept, strict=True):
        assert layer.keys.shape[2] == layer.values.shape[2] == 33
        assert layer.keys.is_contiguous()
        assert torch.equal(layer.keys[:, :, :4], keys)


def test_a_layer_that_reads_another_has_no_storage() -> None:
    kept = [*KEPT, {"kv": From(1)}, {"kv": From({3: 0})}]
    cache = Cache(kept, 3, 5, torch.bfloat16, "cpu")
    states = [layer.kv for layer in cache.layers]
    assert len(cache.own) == 2
    assert (states[2], states[3]) == (states[1], states[0])
    states[0].keys.normal_()
    cache.advance(4)
    old = states[0].keys[:, :, :4].clone()
    cache.reserve(9)
    assert states[3].keys.shape[2] == 10
    assert torch.equal(states[3].keys[:, :, :4], old)
    assert repr(cache) == "Cache(layers=4, batch=3, length=4, capacity=10)"
    rows = cache.first_rows(2)
    mine = [layer.kv for layer in rows.layers]
    assert mine[3] is mine[0] is rows.own[0]
    assert mine[3].keys.data_ptr() == states[0].keys.data_ptr()
    rows.reserve(30)
    assert [kv.keys.shape[2] for kv in mine] == [30] * 4
    assert states[0].keys.shape[2] == 10


def test_reserving_what_is_there_moves_nothing() -> None:
    cache = filled(5, 4)
    before = [layer.keys.data_ptr() for layer in cache.own]
    cache.reserve(5)
    assert [layer.keys.data_ptr() for layer in cache.own] == before


def test_the_first_rows_are_the_same_slots() -> None:
    cache = filled(5, 2)
    for layer in cache.own:
        layer.scales = torch.ones(3, 2, 5)  # type: ignore[attr-defined]
    rows = cache.first_rows(2)
    assert rows.position is cache.position
    assert [state.cache for state in rows.own] == [rows, rows]
    assert [layer.kv for layer in rows.layers] == rows.own
    rows.advance(1)
    assert (rows.length, cache.length, int(cache.position)) == (3, 2, 3)
    for layer, whole in zip(rows.own, cache.own, strict=True):
        assert sorted(layer.tensors()) == ["keys", "scales", "values"]
        for name, slots in layer.tensors().items():
            slots.fill_(7)
            assert slots.is_contiguous()
            assert (getattr(whole, name)[:2] == 7).all()
            assert not (getattr(whole, name)[2] == 7).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_int8_is_at_most_half_a_step_off(dtype: torch.dtype) -> None:
    cache = Cache([{"kv": KeysValues(2, 8, 4)}], 3, 5, F32, "cpu", torch.int8)
    layer = cache.own[0]
    k, v = torch.randn(3, 2, 4, 8, dtype=dtype), torch.randn(3, 2, 4, 4, dtype=dtype)
    k[0, 0, 1] = 0.0
    k[1, 1, 2] *= 1000
    layer.write(1, k, v)
    for got, want in zip(layer.read(1, 5, torch.float32), (k, v), strict=True):
        step = want.float().abs().amax(-1, keepdim=True) / 127
        assert ((got - want.float()).abs() <= step * 0.5001).all()
        assert not torch.equal(got, want.float())
    assert layer.keys.nbytes == 3 * 2 * 5 * 8


def test_float8_is_a_sixteenth_off_at_most_and_never_nan() -> None:
    cache = Cache([{"kv": KeysValues(2, 8, 4)}], 3, 5, F32, "cpu", torch.float8_e4m3fn)
    layer = cache.own[0]
    k, v = torch.randn(3, 2, 4, 8), 1e4 * torch.randn(3, 2, 4, 4)
    layer.write(0, k, v)
    keys, values = layer.read(0, 4, torch.float32)
    # Three bits of fraction; below 2^-6 steps of 2^-9.
    assert ((keys - k).abs() <= (k.abs() / 16).clamp(min=2.0**-10)).all()
    assert values.abs().max() == 448
    assert torch.equal(values.sign(), v.sign())


def test_codes_grow_with_their_scales() -> None:
    cache = Cache(KEPT, 3, 4, F32, "cpu", torch.int8)
    for layer, (heads, k_dim, v_dim) in zip(cache.own, SHAPES, strict=True):
        states = (torch.randn(3, heads, 3, dim) for dim in (k_dim, v_dim))
        layer.write(0, *states)
    cache.advance(3)
    kept = [layer.read(0, 3, torch.float32) for layer in cache.own]
    cache.reserve(20)
    for layer, before in zip(cache.own, kept, strict=True):
        assert layer.key_scales is not None
        assert layer.key_scales.shape[2] == layer.keys.shape[2] == 20
        for now, then in zip(layer.read(0, 3, torch.float32), before, strict=True):
            assert torch.equal(now, then)


HYBRID: list[dict[str, Declared]] = [
    {"kv": KeysValues(2, 4, 4)},
    {"conv": PerRow(6, 3), "scan": PerRow(2, 3, 5, dtype=torch.float32)},
    {},
    {"latents": PerToken(7), "kv": From(0)},
]


def hybrid(length: int = 0, batch: int = 3, **more: Any) -> Cache:
    """A cache of every kind of state, with numbers in it."""
    cache = Cache(HYBRID, batch, 8, torch.float16, "cpu", **more)
    if length:
        for state in cache.own:
            for kept in state.tensors().values():
                kept.copy_(torch.rand(kept.shape) + 1)
        cache.advance(length)
    return cache


def held(cache: Cache) -> list[torch.Tensor]:
    """All that is kept, of slots those that are filled."""
    found = []
    for state in cache.own:
        dim = state.slots_dim
        for kept in state.tensors().values():
            filled = kept if dim is None else kept.narrow(dim, 0, cache.length)
            found.append(filled.clone())
    return found


def test_every_kind_of_state_has_its_shape_and_dtype() -> None:
    cache = hybrid(kv_dtype=torch.int8)
    kv, conv, scan, latents = cache.own
    assert isinstance(kv, KvState)
    assert (kv.keys.shape, kv.keys.dtype) == ((3, 2, 8, 4), torch.int8)
    assert isinstance(conv, RowState)
    assert (conv.rows.shape, conv.rows.dtype) == ((3, 6, 3), torch.float16)
    assert isinstance(scan, RowState)
    assert (scan.rows.shape, scan.rows.dtype) == ((3, 2, 3, 5), torch.float32)
    assert not conv.rows.any()
    assert not scan.rows.any()
    (slots,) = latents.tensors().values()
    assert (slots.shape, slots.dtype) == ((3, 8, 7), torch.float16)
    assert [sorted(vars(layer)) for layer in cache.layers] == [
        ["kv"],
        ["conv", "scan"],
        [],
        ["kv", "latents"],
    ]
    assert cache.layers[3].kv is kv


def test_only_what_is_kept_for_tokens_grows() -> None:
    cache = hybrid(5)
    before, rows = held(cache), cache.layers[1].scan.rows.data_ptr()
    cache.reserve(20)
    assert cache.layers[3].latents.slots.shape == (3, 20, 7)
    assert cache.layers[1].scan.rows.data_ptr() == rows
    for now, then in zip(held(cache), before, strict=True):
        assert torch.equal(now, then)


def test_room_that_is_there_is_kept_and_growing_doubles_it() -> None:
    cache = hybrid(5)
    places = [t.data_ptr() for s in cache.own for t in s.tensors().values()]
    for total in (0, 7, 8):
        cache.reserve(total)
        assert cache.capacity == 8
        assert places == [t.data_ptr() for s in cache.own for t in s.tensors().values()]
    cache.reserve(9)
    assert cache.capacity == 16
    cache.reserve(40)
    assert cache.capacity == 40


def test_programs_of_all_layers_count_themselves_in_one_tensor() -> None:
    cache = hybrid()
    one = cache.counters(3)
    assert one.tolist() == [0, 0, 0]
    assert one.dtype == torch.int32
    assert cache.own[0].counters(3) is cache.own[1].counters(3) is one
    assert cache.counters(4).tolist() == [0, 0, 0, 0]


def test_an_emptied_cache_is_as_new_in_the_same_place() -> None:
    cache = hybrid(5)
    places = [t.data_ptr() for s in cache.own for t in s.tensors().values()]
    cache.start = torch.tensor([0, 1, 2], dtype=torch.int32)
    cache.learned, cache.right_padded = 2, True
    rows = cache.first_rows(2)
    cache.restart()
    assert [t.data_ptr() for s in cache.own for t in s.tensors().values()] == places
    assert (cache.length, cache.learned, cache.start) == (0, 0, None)
    assert not cache.right_padded
    assert int(cache.position) == 0
    for state in (*cache.own, *rows.own):
        if state.slots_dim is None:
            assert not any(bool(t.any()) for t in state.tensors().values())


def test_rows_are_reordered_with_all_that_is_theirs() -> None:
    cache = hybrid(4)
    cache.start = torch.tensor([0, 1, 2], dtype=torch.int32)
    before = held(cache)
    cache.reorder(torch.tensor([2, 0, 0, 1]))
    assert cache.batch == 4
    assert cache.start.tolist() == [2, 0, 0, 1]
    for now, then in zip(held(cache), before, strict=True):
        assert torch.equal(now, then[[2, 0, 0, 1]])


def test_what_was_read_is_cropped_where_it_has_a_history() -> None:
    cache = Cache([HYBRID[0], {"latents": PerToken(7)}], 3, 8, F32, "cpu")
    cache.learned = 1
    cache.advance(6)
    cache.crop(3)
    assert (cache.length, int(cache.position), cache.tokens) == (4, 4, 3)
    with pytest.raises(ValueError, match=r"crop\(4\): the cache holds 3 tokens"):
        cache.crop(4)
    rows = hybrid(6)
    rows.crop(6)
    with pytest.raises(ValueError, match="which has no history"):
        rows.crop(5)
    assert rows.length == 6
    rows.crop(0)
    assert rows.length == 0
    assert not rows.layers[1].scan.rows.any()
    long = hybrid(300)
    long.crop(int("300"))
    assert long.length == 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None])
def test_a_state_has_its_own_dtype_or_the_cache_s(dtype: torch.dtype | None) -> None:
    for declared in (PerRow(4, dtype=dtype), PerRow(2, 3, dtype=dtype)):
        cache = Cache([{"scan": declared}], 3, 8, torch.float16, "cpu")
        assert cache.layers[0].scan.rows.dtype == (dtype or torch.float16)


def test_a_step_is_undone_by_what_it_changes() -> None:
    cache = hybrid(3)
    kept, rows = held(cache), cache.layers[1]
    before = [tensor.clone() for tensor in cache.changing()]
    assert len(before) == 3  # the position and two states of rows
    rows.scan.rows.mul_(2)
    rows.conv.rows.zero_()
    cache.position += 1
    for tensor, old in zip(cache.changing(), before, strict=True):
        tensor.copy_(old)
    assert all(map(torch.equal, held(cache), kept))
    assert int(cache.position) == 3


def test_a_prefix_encoder_fills_keys_and_values_only() -> None:
    cache = hybrid()
    states = torch.randn(1, 2, 2 * 2, 4, dtype=torch.float16)
    cache.begin_with(states)
    assert (cache.learned, cache.length) == (2, 2)
    kv = cache.layers[0].kv
    assert torch.equal(
        kv.keys[:, :, :2], states[:, :, :2].transpose(1, 2).expand(3, -1, -1, -1)
    )
    assert torch.equal(
        kv.values[:, :, :2], states[:, :, 2:].transpose(1, 2).expand(3, -1, -1, -1)
    )
    assert not cache.layers[1].scan.rows.any()


def test_counters_are_the_same_zeros_for_all_who_count_as_far() -> None:
    cache = filled(5, 2)
    few, many = cache.counters(3), cache.counters(7)
    assert few.dtype == torch.int32
    assert (few.tolist(), many.tolist()) == ([0] * 3, [0] * 7)
    assert cache.counters(3) is few
    assert cache.counters(7) is many


@pytest.mark.parametrize(
    ("total", "capacity"), [(1, 5), (5, 5), (6, 10), (10, 10), (11, 11)]
)
def test_room_is_made_where_there_is_too_little(total: int, capacity: int) -> None:
    cache = filled(5, 2)
    cache.reserve(total)
    assert cache.capacity == capacity
    assert cache.own[0].keys.shape[2] == capacity
