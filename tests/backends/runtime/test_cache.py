"""The KV cache."""

from __future__ import annotations

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


def test_reserving_what_is_there_moves_nothing() -> None:
    cache = filled(5, 4)
    before = [layer.keys.data_ptr() for layer in cache.layers]
    cache.reserve(5)
    assert [layer.keys.data_ptr() for layer in cache.layers] == before
