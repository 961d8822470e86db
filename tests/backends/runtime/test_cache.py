"""The KV cache."""

from __future__ import annotations

import pytest
import torch

from glmc.backends.runtime.cache import Cache

SHAPES = [(2, 8, 4), (1, 6, 6)]


def filled(capacity: int, length: int) -> Cache:
    cache = Cache(SHAPES, 3, capacity, torch.bfloat16, "cpu")
    for layer in cache.layers:
        layer.keys.normal_()
        layer.values.normal_()
    cache.advance(length)
    return cache


def test_shapes_and_state_are_those_of_the_cache() -> None:
    cache = filled(5, 2)
    assert [tuple(layer.keys.shape) for layer in cache.layers] == [
        (3, 2, 5, 8),
        (3, 1, 5, 6),
    ]
    assert tuple(cache.layers[0].values.shape) == (3, 2, 5, 4)
    assert [layer.past for layer in cache.layers] == [2, 2]
    cache.start = torch.tensor([0, 1, 0], dtype=torch.int32)
    assert cache.layers[1].start is cache.start
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
    assert cache.layers[1].position is position
    assert position.tolist() == [4]


def test_growth_keeps_the_filled_slots_and_at_least_doubles() -> None:
    cache = filled(5, 4)
    kept = [layer.keys[:, :, :4].clone() for layer in cache.layers]
    cache.reserve(6)
    assert cache.capacity == 10
    cache.reserve(33)
    assert cache.capacity == 33
    for layer, keys in zip(cache.layers, kept, strict=True):
        assert layer.keys.shape[2] == layer.values.shape[2] == 33
        assert layer.keys.is_contiguous()
        assert torch.equal(layer.keys[:, :, :4], keys)


def test_a_layer_that_reads_another_has_no_storage() -> None:
    cache = Cache([*SHAPES, 1, 0], 3, 5, torch.bfloat16, "cpu")
    assert len(cache.own) == 2
    assert cache.layers[2] is cache.layers[1]
    assert cache.layers[3] is cache.layers[0]
    cache.layers[0].keys.normal_()
    cache.advance(4)
    kept = cache.layers[0].keys[:, :, :4].clone()
    cache.reserve(9)
    assert cache.layers[3].keys.shape[2] == 10
    assert torch.equal(cache.layers[3].keys[:, :, :4], kept)
    assert repr(cache) == "Cache(layers=4, batch=3, length=4, capacity=10)"
    rows = cache.first_rows(2)
    assert rows.layers[3] is rows.layers[0] is rows.own[0]
    assert rows.layers[3].keys.data_ptr() == cache.layers[0].keys.data_ptr()
    rows.reserve(30)
    assert [layer.keys.shape[2] for layer in rows.layers] == [30] * 4
    assert cache.layers[0].keys.shape[2] == 10


def test_reserving_what_is_there_moves_nothing() -> None:
    cache = filled(5, 4)
    before = [layer.keys.data_ptr() for layer in cache.layers]
    cache.reserve(5)
    assert [layer.keys.data_ptr() for layer in cache.layers] == before


def test_the_first_rows_are_the_same_slots() -> None:
    cache = filled(5, 2)
    for layer in cache.layers:
        layer.scales = torch.ones(3, 2, 5)  # type: ignore[attr-defined]
    rows = cache.first_rows(2)
    assert rows.position is cache.position
    assert [layer.cache for layer in rows.layers] == [rows, rows]
    rows.advance(1)
    assert (rows.length, cache.length, int(cache.position)) == (3, 2, 3)
    for layer, whole in zip(rows.layers, cache.layers, strict=True):
        assert sorted(layer.slots()) == ["index", "keys", "scales", "values"]
        for name, slots in layer.slots().items():
            slots.fill_(7)
            assert slots.is_contiguous()
            assert (getattr(whole, name)[:2] == 7).all()
            assert not (getattr(whole, name)[2] == 7).any() or name == "index"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_int8_is_at_most_half_a_step_off(dtype: torch.dtype) -> None:
    cache = Cache([(2, 8, 4)], 3, 5, torch.int8, "cpu")
    layer = cache.layers[0]
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
    cache = Cache([(2, 8, 4)], 3, 5, torch.float8_e4m3fn, "cpu")
    layer = cache.layers[0]
    k, v = torch.randn(3, 2, 4, 8), 1e4 * torch.randn(3, 2, 4, 4)
    layer.write(0, k, v)
    keys, values = layer.read(0, 4, torch.float32)
    # Three bits of fraction; below 2^-6 steps of 2^-9.
    assert ((keys - k).abs() <= (k.abs() / 16).clamp(min=2.0**-10)).all()
    assert values.abs().max() == 448
    assert torch.equal(values.sign(), v.sign())


def test_codes_grow_with_their_scales() -> None:
    cache = Cache(SHAPES, 3, 4, torch.int8, "cpu")
    for layer, (heads, k_dim, v_dim) in zip(cache.layers, SHAPES, strict=True):
        states = (torch.randn(3, heads, 3, dim) for dim in (k_dim, v_dim))
        layer.write(0, *states)
    cache.advance(3)
    kept = [layer.read(0, 3, torch.float32) for layer in cache.layers]
    cache.reserve(20)
    for layer, before in zip(cache.layers, kept, strict=True):
        assert layer.key_scales is not None
        assert layer.key_scales.shape[2] == layer.keys.shape[2] == 20
        for now, then in zip(layer.read(0, 3, torch.float32), before, strict=True):
            assert torch.equal(now, then)
