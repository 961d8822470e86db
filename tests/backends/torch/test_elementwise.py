"""Activations, linear maps and reshapes."""

from __future__ import annotations

import pytest
import torch
from transformers.activations import ACT2FN

from glmc.backends.torch import ops

PUBLISHED = {
    "silu": ["silu", "swish"],
    "gelu": ["gelu"],
    "gelu_tanh": ["gelu_new", "gelu_pytorch_tanh"],
    "relu": ["relu"],
}
PAIRS = [(fn, name) for fn, names in PUBLISHED.items() for name in names]


@pytest.mark.parametrize(("fn", "name"), PAIRS)
def test_activations_equal_transformers(fn: str, name: str) -> None:
    x = torch.linspace(-9, 9, 4001)
    torch.testing.assert_close(ops.activation(x, fn=fn), ACT2FN[name](x))


def test_control_the_two_gelus_differ() -> None:
    x = torch.linspace(-9, 9, 4001)
    erf, tanh = ops.activation(x, fn="gelu"), ops.activation(x, fn="gelu_tanh")
    assert (erf - tanh).abs().max() > 1e-4


def test_act_mul_activates_the_first_half() -> None:
    gate, up = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    made = ops.act_mul(torch.cat((gate, up), -1), fn="silu")
    torch.testing.assert_close(made, torch.nn.functional.silu(gate) * up)


def test_linear_is_torch_linear() -> None:
    layer = torch.nn.Linear(8, 5)
    x = torch.randn(2, 3, 8)
    weight, bias = layer.weight, layer.bias
    assert torch.equal(ops.linear(x, weight, bias=bias), layer(x))
    torch.testing.assert_close(ops.linear(x, weight) + bias, layer(x))


def test_split_and_heads_are_views() -> None:
    x = torch.randn(2, 3, 12)
    parts = ops.split(x, sizes=(6, 4, 2))
    assert [part.shape[-1] for part in parts] == [6, 4, 2]
    assert torch.equal(torch.cat(parts, -1), x)
    by_head = ops.heads(parts[0], n=3)
    assert by_head.shape == (2, 3, 3, 2)
    assert by_head.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_embedding_add_mul() -> None:
    weight, ids = torch.randn(7, 4), torch.tensor([[1, 6]])
    assert torch.equal(ops.embedding(ids, weight), weight[ids])
    assert torch.equal(ops.add(weight, weight), weight + weight)
    assert torch.equal(ops.mul(weight, weight), weight * weight)


def test_what_is_cut_below_a_threshold() -> None:
    x = torch.randn(2, 3, 400)
    got = ops.cut_below(x, deviations=1.5)
    mean, deviation = x.mean(-1, keepdim=True), x.std(-1, correction=0, keepdim=True)
    torch.testing.assert_close(got, (x - mean - 1.5 * deviation).clamp(min=0))


def test_ids_beyond_a_table_are_zero() -> None:
    ids = torch.tensor([[0, 4, 5, 9]])
    assert ops.known_ids(ids, limit=5).tolist() == [[0, 4, 0, 0]]
